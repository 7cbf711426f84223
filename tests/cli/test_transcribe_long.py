"""Long recordings: pieces that leave nothing out and end in pauses, their joined hypotheses, stopped runs."""

import json
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
from checkpoints import save_ctc
from commands import REPOSITORY
from rich.progress import Progress
from streams import speech
from tiny_whisper import complete_whisper

from colld_fairseq.cli import main
from colld_fairseq.cli.terminal import AudioBar
from colld_fairseq.cli.transcribe import Printer, long
from colld_fairseq.cli.transcribe.inputs import Utterances, read_files
from colld_fairseq.cli.transcribe.output import Journal, Result
from colld_fairseq.cli.transcribe.streaming import Source
from colld_fairseq.data.audio import audio_blocks, find_zip_members, read_audio
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.utterances import BadUtterances
from colld_fairseq.data.voice_activity import VoiceActivity
from colld_fairseq.decoding.hypothesis import Hypothesis, Word
from colld_fairseq.errors import AudioError
from colld_fairseq.recogniser import load_recogniser

RATE = 16000
UTTERANCES = [speech(seconds, seed) for seed, seconds in enumerate((1.4, 0.9, 1.1, 1.6, 0.8, 1.2))]
PAUSE = 0.4


@pytest.fixture(scope="module")
def checkpoint(corpus, vocab, tmp_path_factory):
    return save_ctc(tmp_path_factory.mktemp("ctc") / "model.pt", corpus, "full", "--vocab", vocab, "--cmvn", "none")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Utterances with pauses between them."""
    pause = np.zeros(int(PAUSE * RATE), dtype=np.float32)
    samples = np.concatenate([part for utterance in UTTERANCES for part in (utterance, pause)])
    path = tmp_path_factory.mktemp("audio") / "talk.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    return path


def cut(path, seconds, detector=None):
    return list(long.Recording(str(path), long.Cutting(seconds, detector)))


def loudness(samples):
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))


def test_pieces_leave_nothing_out_and_end_in_pauses(recording, monkeypatch):
    monkeypatch.setattr("colld_fairseq.data.audio._BLOCK", 5000)  # blocks end anywhere
    whole, parts = read_audio(str(recording)), cut(recording, 2.5)
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in parts]), whole)
    assert [piece.start for piece in parts] == [0, *np.cumsum([len(piece.samples) for piece in parts])[:-1]]
    assert len(parts) > 3 and all(1.25 <= piece.seconds <= 2.5 for piece in parts[:-1])
    for piece in parts[1:]:
        assert loudness(whole[piece.start - 800 : piece.start + 800]) == 0.0, "not in a pause"
    assert [len(piece.samples) for piece in cut(recording, 60)] == [len(whole)]


@pytest.mark.parametrize(
    "ending, rate, channels", [("wav", 16000, 1), ("flac", 44100, 2), ("ogg", 48000, 1), ("mp3", 22050, 1)]
)
def test_blocks_are_what_reading_at_once_gives(ending, rate, channels, tmp_path, monkeypatch):
    path = tmp_path / f"a.{ending}"
    sound = np.tile(np.concatenate(UTTERANCES)[: 2 * rate, None], (1, channels)) * np.linspace(1, 0.3, channels)
    soundfile.write(path, sound, rate)
    monkeypatch.setattr("colld_fairseq.data.audio._BLOCK", 3001)
    blocks = list(audio_blocks(str(path)))
    expected = read_audio(str(path))
    assert max(map(len, blocks)) <= 3001 and len(blocks) > 5
    seen = np.concatenate(blocks)
    assert len(seen) == len(expected)
    if ending == "mp3":  # whose decoder warns of, and guesses at, a few frames that its encoder wrote
        assert np.mean(np.abs(seen - expected)) < 1e-3
    else:
        np.testing.assert_allclose(seen, expected, atol=2e-4)
    if ending in ("wav", "flac"):
        spec = f"{path}:{4000}:{9000}"
        np.testing.assert_allclose(np.concatenate(list(audio_blocks(spec))), read_audio(spec), atol=2e-4)


def transcribed(checkpoint, out, *more):
    assert main(["transcribe", checkpoint, *map(str, more), "--out", str(out), "--words", "json"]) == 0
    rows = read_manifest(str(out))
    return {rows.row(i).id: rows.row(i) for i in range(len(rows))}


def test_a_recording_is_its_pieces_one_after_the_other(checkpoint, recording, tmp_path):
    recogniser = load_recogniser(checkpoint)
    parts = cut(recording, 2.5)
    alone = [recogniser.transcribe([piece.samples])[0][0] for piece in parts]
    rows = transcribed(checkpoint, tmp_path / "o.tsv", recording, "--cut-seconds", "2.5", "--batch-seconds", "6")
    (row,) = rows.values()
    assert row.tgt_text == " ".join(one.text for one in alone if one.text)
    assert row.n_samples == len(read_audio(str(recording)))
    (content,) = [json.loads(file.read_text(encoding="utf-8")) for file in (tmp_path / "o.words").rglob("*.json")]
    expected = [w.start + piece.start / RATE for piece, one in zip(parts, alone) for w in one.words]
    assert [word["start"] for word in content["words"]] == pytest.approx(expected, abs=2e-3) and expected
    assert expected[-1] > 4


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """Two real prompts, seven seconds of silence between and four behind them."""
    members = find_zip_members(str(REPOSITORY / "examples" / "quickstart" / "prompts.zip"))
    prompts = [read_audio(members[f"{name}.ogg"]) for name in ("en-agent-pass", "en-agent-user")]
    samples = np.concatenate((prompts[0], np.zeros(7 * RATE), prompts[1], np.zeros(4 * RATE)))
    path = tmp_path_factory.mktemp("talk") / "talk.flac"
    soundfile.write(path, samples, RATE)
    return path


def test_cut_by_voice_activity_silence_is_left_out(checkpoint, talk, tmp_path, monkeypatch):
    monkeypatch.setattr("colld_fairseq.data.audio._BLOCK", 5000)
    recogniser, whole, detector = load_recogniser(checkpoint), read_audio(str(talk)), VoiceActivity()
    parts = cut(talk, 8, detector)
    assert len(parts) == 2
    for piece in parts:
        np.testing.assert_array_equal(piece.samples, whole[piece.start : piece.start + len(piece.samples)])
    alone = [recogniser.transcribe([piece.samples])[0][0] for piece in parts]
    rows = transcribed(checkpoint, tmp_path / "o.tsv", talk, "--vad", "--cut-seconds", "8")
    (row,) = rows.values()
    assert row.tgt_text == " ".join(one.text for one in alone if one.text) and row.n_samples == len(whole)
    (content,) = [json.loads(file.read_text(encoding="utf-8")) for file in (tmp_path / "o.words").rglob("*.json")]
    times = [word["start"] for word in content["words"]]
    gap = parts[0].start / RATE + parts[0].seconds, parts[1].start / RATE
    assert gap[1] - gap[0] > 6 and not [time for time in times if gap[0] < time < gap[1]]
    assert any(time >= gap[1] for time in times)


def test_silence_alone_has_an_empty_hypothesis(checkpoint, tmp_path, capsys):
    """Also where it is shorter than the pieces: without a detector the model makes something up."""
    silence = str(tmp_path / "silence.wav")
    soundfile.write(silence, np.zeros(3 * RATE), RATE)
    assert main(["transcribe", checkpoint, silence]) == 0
    assert capsys.readouterr().out.rstrip("\n") > f"{silence}\t"
    for longest in ([], ["--cut-seconds", "1"], ["--cut-seconds", "10"]):
        assert main(["transcribe", checkpoint, silence, "--vad", *longest]) == 0
        assert capsys.readouterr().out.rstrip("\n") == f"{silence}\t"


def test_short_files_are_transcribed_as_without(checkpoint, recording, corpus, tmp_path):
    manifest = str(corpus / "test.tsv")
    plain = transcribed(checkpoint, tmp_path / "a.tsv", "--manifest", manifest)
    cut = transcribed(checkpoint, tmp_path / "b.tsv", "--manifest", manifest, "--cut-seconds", "30")
    assert {name: row.tgt_text for name, row in plain.items()} == {name: row.tgt_text for name, row in cut.items()}


def test_a_stopped_run_goes_on_within_a_recording(checkpoint, recording, tmp_path, monkeypatch, capsys):
    expected = transcribed(checkpoint, tmp_path / "whole.tsv", recording, "--cut-seconds", "2", "--batch-seconds", "2")
    plain, done, stops = long.transcribe, [], [2]

    def transcribe(recogniser, utterances, name, batch):
        if len(done) in stops:
            raise KeyboardInterrupt
        done.extend(batch)
        return plain(recogniser, utterances, name, batch)

    monkeypatch.setattr(long, "transcribe", transcribe)
    command = [
        "transcribe",
        checkpoint,
        str(recording),
        "--cut-seconds",
        "2",
        "--batch-seconds",
        "2",
        "--words",
        "json",
    ]
    assert main([*command, "--out", str(tmp_path / "o.tsv")]) == 130
    before = [piece.start for piece in done]
    done.clear()
    stops.clear()
    assert main([*command, "--out", str(tmp_path / "o.tsv")]) == 0
    assert "0 of 1 utterances are there already, and 2 parts" in capsys.readouterr().err
    assert not {piece.start for piece in done} & set(before) and len(done) > 1
    seen = read_manifest(str(tmp_path / "o.tsv"))
    assert [seen.row(0).tgt_text] == [row.tgt_text for row in expected.values()]


def test_a_truncated_recording_is_named(checkpoint, recording, corpus, tmp_path, capsys):
    damaged = tmp_path / "damaged.flac"
    soundfile.write(damaged, read_audio(str(recording)), RATE)
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match="damaged.flac"):
        cut(damaged, 2.0)
    source = Source(str(damaged), AudioBar(Progress(), 1, 1.0))
    assert sum(map(len, source)) == source.samples and "damaged.flac" in source.error  # a stream ends there
    good = str(next(corpus.glob("*.wav")))
    assert main(["transcribe", checkpoint, str(damaged), good, "--cut-seconds", "2"]) == 0
    printed = capsys.readouterr()
    assert "damaged.flac" in printed.err and len(printed.out.splitlines()) == 1


def test_what_waits_for_a_damaged_recording_is_printed(checkpoint, recording, corpus, tmp_path, capsys):
    """Its header is right, its middle is not: that is seen only when it is read, after shorter files."""
    damaged = tmp_path / "damaged.flac"
    soundfile.write(damaged, read_audio(str(recording)), RATE)
    content = bytearray(damaged.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(range(256)) * 12
    damaged.write_bytes(content)
    good = str(next(corpus.glob("*.wav")))
    assert main(["transcribe", checkpoint, str(damaged), good, "--cut-seconds", "2"]) == 0
    printed = capsys.readouterr()
    assert "damaged.flac" in printed.err and printed.out.startswith(f"{good}\t")


def test_containers_that_take_pyav_are_named_with_what_installs_it(recording, tmp_path, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x1cftypM4A \0\0\2\0" + bytes(99))
    soundfile.write(tmp_path / "b.wav", UTTERANCES[0], RATE)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    rows, bad = read_files([str(tmp_path)])
    assert rows.ids == ["b.wav"] and list(bad) == ["a.m4a"]
    assert 'pip install "colld_fairseq[media]", or install ffmpeg' in bad["a.m4a"]


def test_what_whisper_cannot_take_in_does_not_end_a_run(tmp_path, capsys):
    """In a folder with others it is named, with the remedy, and the others are transcribed."""
    (tmp_path / "audio").mkdir()
    for name, seconds in (("a", 31), ("b", 1)):
        soundfile.write(tmp_path / "audio" / f"{name}.wav", speech(seconds, 0), RATE)
    complete_whisper(tmp_path)
    model, whisper = str(tmp_path / "model.pt"), f"hf:{tmp_path}"
    assert main(["assemble", "--student", whisper, "--decoder-from", whisper, "--out", model]) == 0
    command = ["transcribe", model, str(tmp_path / "audio"), "--src-lang", "en", "--lang", "en"]
    for cut in ([], ["--cut-seconds", "60"]):
        capsys.readouterr()
        assert main([*command, *cut]) == 0
        printed = capsys.readouterr()
        assert printed.out.startswith("b.wav\t") and "a.wav\t" not in printed.out
        assert "a.wav: 31.00 s are too long for the encoder, which takes in 30 s: cut it" in printed.err
    assert main([*command, "--cut-seconds", "30"]) == 0
    assert "a.wav\t" in capsys.readouterr().out


def test_streams_are_not_cut(checkpoint, recording, capsys):
    assert main(["transcribe", checkpoint, str(recording), "--streaming", "--cut-seconds", "9"]) == 2
    assert "--endpoint" in capsys.readouterr().err


def test_finished_results_are_not_in_memory(tmp_path):
    """What a run of hours keeps per result is where it lies in the journal."""
    journal = Journal(str(tmp_path / "o.tsv.partial"), {"checkpoint": "a"})
    words = [Word("word", 0.1 * i, 0.1 * i + 0.05, 0.9) for i in range(200)]
    result = Result(16000, [Hypothesis(list(range(400)), -1.0, -1.0, text="word " * 200, words=words)])
    for index in range(20):
        journal.add({f"a@{index}": result})
    tracemalloc.start()
    for index in range(20, 120):
        journal.add({f"a@{index}": result})
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    journal.close()
    again = Journal(str(tmp_path / "o.tsv.partial"), {"checkpoint": "a"})
    again.close()
    assert again.results["a@117"] == journal.results["a@3"] == result and len(again.results) == 120
    assert "a@120" not in again.results and again.results.get("b") is None
    assert grown < 100 * 500  # bytes; a result itself takes a hundred times as much


def test_a_printer_keeps_neither_pieces_nor_what_is_printed(recording, capsys):
    rows, _ = read_files([str(recording)])
    both = Utterances(rows, ["a", "b"], np.arange(2), lambda row: row)
    printer, result = Printer(1), Result(9, [Hypothesis([1], 0.0, 0.0, text="x")])
    for results in ({"b": result}, {"a@0": result}, {"a@90": result}):
        printer(both, results, BadUtterances(2, 1.0))
    assert list(printer.waiting) == ["b"] and capsys.readouterr().out == ""
    printer(both, {"a": result}, BadUtterances(2, 1.0))
    assert printer.waiting == {} and capsys.readouterr().out == "a\tx\nb\tx\n"
