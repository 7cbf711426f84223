"""`colld join`: the windows of `data.joining` as files that everything else here reads."""

import numpy as np
import pytest
import soundfile

from colld_fairseq.cli import main as colld
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.outputs import only_run


def join(corpus, out, *more):
    return colld(["join", "--manifest", str(corpus / "train.tsv"), "--out", str(out), "--seconds", "6", *more])


def test_every_utterance_in_windows_of_its_language(corpus, tmp_path, capsys):
    assert join(corpus, tmp_path / "windows.tsv", "--copies", "2", "--padded", "0.4") == 0
    source, windows = read_manifest(str(corpus / "train.tsv")), read_manifest(str(tmp_path / "windows.tsv"))
    utterances = [source.row(index) for index in range(len(source))]
    seconds, words = 0.0, []
    for index in range(len(windows)):
        row = windows.row(index)
        waveform = read_audio(row.audio)
        assert len(waveform) == row.n_samples <= 96000
        end = np.flatnonzero(waveform)[-1] + 1 if waveform.any() else 0
        seconds += end / 16000
        words += row.tgt_text.split()
        first = next(u for u in utterances if row.tgt_text.startswith(u.tgt_text) and u.src_lang == row.src_lang)
        assert row.tgt_lang == first.tgt_lang
    assert sorted(words) == sorted(2 * [word for row in utterances for word in row.tgt_text.split()])
    assert seconds == pytest.approx(2 * source.n_samples.sum() / 16000, rel=0.01)
    assert sum(windows.n_samples == 96000) > 1 and len(windows) < 2 * len(source)
    assert "each utterance 2 times" in capsys.readouterr().out


def test_the_audio_is_that_of_the_utterances_in_their_order(corpus, tmp_path):
    assert join(corpus, tmp_path / "windows.tsv", "--seed", "3") == 0
    source, windows = read_manifest(str(corpus / "train.tsv")), read_manifest(str(tmp_path / "windows.tsv"))
    by_text = {source.row(i).tgt_text: read_audio(source.row(i).audio) for i in range(len(source))}
    checked = 0
    for index in range(len(windows)):
        row = windows.row(index)
        parts = sorted((text for text in by_text if text in row.tgt_text), key=row.tgt_text.index)
        if " ".join(parts) == row.tgt_text:
            expected = np.concatenate([by_text[text] for text in parts])
            assert np.abs(read_audio(row.audio) - expected).max() <= 1 / 32768
            checked += 1
    assert checked > 3


def test_alike_from_a_seed(corpus, tmp_path):
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        join(corpus, tmp_path / f"{name}.tsv", "--seed", seed)
    a, b, c = ((tmp_path / f"{name}.tsv").read_text() for name in "abc")
    assert a.replace("/a/", "/b/").replace("a-0", "b-0") == b
    assert a.replace("/a/", "/c/").replace("a-0", "c-0") != c


def test_what_cannot_be_read_is_left_out_and_named(corpus, tmp_path, capsys):
    lines = (corpus / "train.tsv").read_text().splitlines()
    audio = lines[0].split("\t").index("audio")
    fields = [line.split("\t") for line in lines]
    for row in fields[1:]:
        row[audio] = str(corpus / row[audio])
    fields[2][audio] = str(tmp_path / "broken.wav")
    soundfile.write(fields[2][audio], np.zeros(100), 16000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "in.tsv").write_text("\n".join("\t".join(row) for row in fields) + "\n")
    words = ["join", "--manifest", str(tmp_path / "in.tsv"), "--out", str(tmp_path / "out.tsv"), "--seconds", "4"]
    assert colld(words) == 0
    output = capsys.readouterr().out
    assert "1 of" in output and "broken.wav" in output
    assert fields[2][lines[0].split("\t").index("tgt_text")] not in (tmp_path / "out.tsv").read_text()


def test_a_stopped_run_leaves_no_manifest_of_other_windows(corpus, tmp_path, monkeypatch):
    """That of an earlier run would name the new audio beside its own text."""
    assert join(corpus, tmp_path / "windows.tsv") == 0
    read = []

    def stopped(path):
        read.append(path)
        if len(read) > 3:
            raise KeyboardInterrupt
        return read_audio(path)

    monkeypatch.setattr("colld_fairseq.cli.join.read_audio", stopped)
    assert join(corpus, tmp_path / "windows.tsv", "--seed", "7") == 130
    assert [path.name for path in tmp_path.iterdir()] == ["windows"]


def test_two_runs_do_not_write_to_one_folder(corpus, tmp_path, capsys):
    with only_run(tmp_path / "windows.tsv"):
        assert join(corpus, tmp_path / "windows.tsv") == 2
    assert "another run writes there" in capsys.readouterr().err and not (tmp_path / "windows").exists()


def test_a_stopped_run_is_begun_anew(corpus, tmp_path):
    assert join(corpus, tmp_path / "windows.tsv") == 0
    expected = (tmp_path / "windows.tsv").read_text()
    (tmp_path / "windows.tsv").unlink(), (tmp_path / "windows" / "000999.flac").touch()
    assert join(corpus, tmp_path / "windows.tsv") == 0
    assert (tmp_path / "windows.tsv").read_text() == expected
    assert len(list((tmp_path / "windows").iterdir())) == expected.count("\n") - 1


def test_a_window_that_lacks_the_end_of_an_utterance_has_no_text(corpus, tmp_path, capsys):
    """To distil from, no text is needed; a transcript that goes on behind its audio teaches to invent."""
    source = read_manifest(str(corpus / "train.tsv"))
    utterances = {row.tgt_text: row for row in map(source.row, range(len(source)))}
    limit = int(source.n_samples.max()) - 160
    cut = int((source.n_samples > limit).sum())
    assert 0 < cut < len(source)
    assert join(corpus, tmp_path / "windows.tsv", "--seconds", str(limit / 16000)) == 0
    windows = read_manifest(str(tmp_path / "windows.tsv"))
    rows = [windows.row(index) for index in range(len(windows))]
    assert sum(not row.tgt_text for row in rows) == cut and max(row.n_samples for row in rows) == limit
    for row in (row for row in rows if not row.tgt_text):
        assert row.n_samples == limit and not row.src_text
    kept = [text for text, row in utterances.items() if row.n_samples <= limit]
    assert sorted(" ".join(row.tgt_text for row in rows).split()) == sorted(" ".join(kept).split())
    assert f"{cut} windows lack the end of an utterance longer" in capsys.readouterr().out
    assert join(corpus, tmp_path / "other.tsv", "--seconds", "60") == 0
    assert "lack the end" not in capsys.readouterr().out


def test_windows_that_are_to_be_read_are_not_removed(corpus, tmp_path, capsys):
    """Windows are joined again to longer ones, by a copy of their manifest and into the folder that they lie in."""
    assert join(corpus, tmp_path / "windows.tsv") == 0
    manifest = (tmp_path / "windows.tsv").rename(tmp_path / "other.tsv")
    before = sorted(path.name for path in (tmp_path / "windows").iterdir())
    again = ["join", "--manifest", str(manifest), "--out", str(tmp_path / "windows.tsv"), "--seconds", "12"]
    assert colld(again) == 2 and "is emptied for the windows" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "windows").iterdir()) == before


def test_nothing_else_is_overwritten(corpus, tmp_path, capsys):
    (tmp_path / "windows").mkdir()
    (tmp_path / "windows" / "speech.wav").touch()
    assert join(corpus, tmp_path / "windows.tsv") == 2 and "there is speech.wav" in capsys.readouterr().err
    assert join(corpus, tmp_path / "new") == 2 and "NAME.tsv" in capsys.readouterr().err
    assert join(corpus, corpus / "train.tsv") == 2
