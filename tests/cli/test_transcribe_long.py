"""Long recordings: pieces that leave nothing out and end in pauses, their joined hypotheses, stopped runs."""

import json

import numpy as np
import pytest
import soundfile
from checkpoints import save_ctc
from streams import speech

from colld_fairseq.cli import main
from colld_fairseq.cli.transcribe import long
from colld_fairseq.data.audio import audio_blocks, read_audio
from colld_fairseq.data.manifest import read_manifest
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


def loudness(samples):
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))


def test_pieces_leave_nothing_out_and_end_in_pauses(recording, monkeypatch):
    monkeypatch.setattr("colld_fairseq.data.audio._BLOCK", 5000)  # blocks end anywhere
    whole, parts = read_audio(str(recording)), list(long.pieces(str(recording), 2.5))
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in parts]), whole)
    assert [piece.start for piece in parts] == [0, *np.cumsum([len(piece.samples) for piece in parts])[:-1]]
    assert len(parts) > 3 and all(1.25 <= piece.seconds <= 2.5 for piece in parts[:-1])
    for piece in parts[1:]:
        assert loudness(whole[piece.start - 800 : piece.start + 800]) == 0.0, "not in a pause"
    assert [len(piece.samples) for piece in long.pieces(str(recording), 60)] == [len(whole)]


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
    parts = list(long.pieces(str(recording), 2.5))
    alone = [recogniser.transcribe([piece.samples])[0][0] for piece in parts]
    rows = transcribed(checkpoint, tmp_path / "o.tsv", recording, "--cut-seconds", "2.5", "--batch-seconds", "6")
    (row,) = rows.values()
    assert row.tgt_text == " ".join(one.text for one in alone if one.text)
    assert row.n_samples == len(read_audio(str(recording)))
    (content,) = [json.loads(file.read_text(encoding="utf-8")) for file in (tmp_path / "o.words").rglob("*.json")]
    expected = [w.start + piece.start / RATE for piece, one in zip(parts, alone) for w in one.words]
    assert [word["start"] for word in content["words"]] == pytest.approx(expected, abs=2e-3) and expected
    assert expected[-1] > 4


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
        list(long.pieces(str(damaged), 2.0))
    good = str(next(corpus.glob("*.wav")))
    assert main(["transcribe", checkpoint, str(damaged), good, "--cut-seconds", "2"]) == 0
    printed = capsys.readouterr()
    assert "damaged.flac" in printed.err and len(printed.out.splitlines()) == 1


def test_streams_are_not_cut(checkpoint, recording, capsys):
    assert main(["transcribe", checkpoint, str(recording), "--streaming", "--cut-seconds", "9"]) == 2
    assert "--endpoint" in capsys.readouterr().err
