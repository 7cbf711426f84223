"""The manifest writer: what is read back is what was written, and nothing that would not be read is written."""

import os

import numpy as np
import pytest

from colld_fairseq.data.manifest import Row, read_manifest
from colld_fairseq.data.manifest_writer import COLUMNS, write_manifest
from colld_fairseq.errors import ManifestError

ROWS = [
    Row("1", "/x/a.wav", 16000, 'Sagt "er" ', "s", "«съезд»", "de", "ru"),
    Row("2", "/x/b.zip:7:99", 0, "", "", "", "", ""),
    Row("мир", "/x/c d.flac", 5, "مرحبا", "Ann B", "", "ar", "ar"),
]


def rows_of(path):
    manifest = read_manifest(str(path))
    return [manifest.row(i)._replace(line=0) for i in range(len(manifest))]


def test_speech_to_text_is_read_back(tmp_path):
    path = tmp_path / "new" / "train.tsv"
    assert write_manifest(path, iter(ROWS), more={"mean_log_prob": ["-0.1", "-0.2", "-0.3"]}) == 3
    assert rows_of(path) == ROWS
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].split("\t") == [*COLUMNS, "mean_log_prob"] and lines[2].endswith("\t-0.2")


def test_audio_only_is_read_back(tmp_path):
    rows = [Row("", "a b.wav", np.int64(7)), Row("", "d/c.flac", 0)]
    assert write_manifest(tmp_path / "a.tsv", rows, root=tmp_path / "corpus") == 2
    assert rows_of(tmp_path / "a.tsv") == [Row(r.audio, f"{tmp_path}/corpus/{r.audio}", r.n_samples) for r in rows]


@pytest.mark.parametrize("text", ["a\tb", "a\nb", "a\r\nb", "a\x0bb", "a\u2028b", "a\x85\tb"])
def test_breaks_in_texts_become_a_space(text, tmp_path):
    write_manifest(tmp_path / "a.tsv", [ROWS[0]._replace(tgt_text=text, src_text=text, speaker=text)])
    (row,) = rows_of(tmp_path / "a.tsv")
    assert (row.tgt_text, row.src_text, row.speaker) == ("a b",) * 3


BAD = {
    "tab or line break": [dict(id="a\tb"), dict(audio="/x/a\nb.wav"), dict(src_lang="d\re"), dict(tgt_lang="e\tn")],
    "not UTF-8": [dict(audio=os.fsdecode(b"/x/caf\xe9.wav")), dict(id="\udce9")],
    "empty": [dict(id=""), dict(audio=" ")],
    "whole number": [dict(n_samples=-1), dict(n_samples=1.5), dict(n_samples="7"), dict(n_samples=None)],
    "earlier row": [dict(id="1")],
}


@pytest.mark.parametrize("reason, change", [(reason, change) for reason, changes in BAD.items() for change in changes])
def test_what_would_not_be_read_is_refused_and_nothing_is_left(reason, change, tmp_path):
    with pytest.raises(ManifestError, match=f"a.tsv: row 2 cannot be written: .*{reason}"):
        write_manifest(tmp_path / "a.tsv", [ROWS[0], ROWS[1]._replace(**change)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("root", ["", "/a\tb", "/a\nb", os.fsdecode(b"/caf\xe9")])
def test_root_that_would_not_be_read_is_refused(root, tmp_path):
    with pytest.raises(ManifestError, match="root folder"):
        write_manifest(tmp_path / "a.tsv", [Row("", "a.wav", 1)], root=root)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_stopped_leaves_the_manifest_that_was_there(tmp_path):
    write_manifest(tmp_path / "a.tsv", ROWS)

    def stopped():
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(tmp_path / "a.tsv", stopped())
    assert rows_of(tmp_path / "a.tsv") == ROWS and len(list(tmp_path.iterdir())) == 1
