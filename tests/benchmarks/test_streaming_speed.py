import json

import pytest
import streaming_speed

TINY = "--width-divisor 6 --seconds 1.2 --rounds 1 --streams 2 --chunk-ms 80,320 --vocabulary 20 --clock cpu"


@pytest.mark.parametrize("model, beam", [("transducer", "1"), ("transducer", "2"), ("ctc", "1"), ("ctc", "2")])
def test_a_small_run(model, beam, capsys, tmp_path, monkeypatch):
    path = tmp_path / "speed.json"
    monkeypatch.setattr(streaming_speed, "BISECTIONS", 10)
    monkeypatch.setattr(
        "sys.argv", ["streaming_speed.py", *TINY.split(), "--models", model, "--beam", beam, "--json", str(path)]
    )
    streaming_speed.main()
    result = json.loads(path.read_text())
    short, long = result["chunks"]
    assert (short["chunk_ms"], long["chunk_ms"]) == (80, 320)
    for row in (short, long):
        assert row["model"] == model
        assert 3 <= row["labels_per_second"] <= 12  # 5 were asked for, and an utterance is short
        assert 0 < row["whole_rtf"] and 0 < row["final_s"] < row["first_text_s"]
        assert row["step_ms"] == pytest.approx(row["rtf"] * row["chunk_ms"])
    assert 0.02 < short["emission_delay_s"] < long["emission_delay_s"]  # half a chunk, the look-ahead, a window
    assert long["first_text_s"] >= 0.32
    assert "target: RTF at most 0.3" in capsys.readouterr().out


def test_a_stream_that_differs_from_the_whole_utterance_is_an_error(monkeypatch):
    args = streaming_speed.parse_arguments([*TINY.split(), "--chunk-ms", "80", "--models", "transducer"])
    monkeypatch.setattr(streaming_speed, "LEFT_MS", 240)
    plain = streaming_speed.StreamingEncoder
    monkeypatch.setattr(streaming_speed, "StreamingEncoder", lambda encoder, chunk, left: plain(encoder, chunk, 0))
    with pytest.raises(RuntimeError, match="the stream says"):
        streaming_speed.measure(args)


@pytest.mark.parametrize(
    "arguments, message",
    [(["--chunk-ms", "0"], "at least 1"), (["--rounds", "0"], "at least 1"), (["--models", "rnn"], "transducer, ctc")],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        streaming_speed.parse_arguments(arguments)
    assert message in capsys.readouterr().err
