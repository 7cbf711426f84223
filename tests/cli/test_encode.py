"""`colld encode` against the tokens that training sees."""

import io

import pytest

from colld_fairseq.cli import main as colld
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.text import TextNormalizer
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.data.vocabulary_making import make_vocabulary


@pytest.fixture(scope="module", params=["char", "sentencepiece"])
def folder(request, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    size = None if request.param == "char" else 60
    make_vocabulary([str(corpus / "train.tsv")], folder, request.param, size, normalizer=TextNormalizer(lowercase=True))
    return folder


def test_tokens_are_those_of_training(folder, corpus, tmp_path, monkeypatch, capsys):
    rows = read_manifest(str(corpus / "train.tsv"))
    transcripts = [rows.row(i).tgt_text for i in range(len(rows))]
    (tmp_path / "text").write_text(f"\n{transcripts[0].upper()}\n   \n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{transcripts[1]}\n".encode()), "ascii"))
    out, manifest = tmp_path / "new" / "tokens", str(corpus / "train.tsv")
    arguments = ["encode", "--vocab", str(folder), str(tmp_path / "text"), "-", "--manifest", manifest]
    assert colld([*arguments, "--out", str(out)]) == 0
    vocabulary = Vocabulary(str(folder))
    expected = [transcripts[0], transcripts[1], *transcripts]
    lines = out.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(expected)
    for line, text in zip(lines, expected):
        ids = vocabulary.encode(text, append_eos=True).tolist()
        assert vocabulary.dictionary.encode_line(line, add_if_not_exist=False).tolist() == ids
    assert f"{len(expected)} lines" in capsys.readouterr().out


def test_unknown_tokens_are_counted(folder, tmp_path, capsys):
    (tmp_path / "text").write_text("☃☃\n", encoding="utf-8")
    assert colld(["encode", "--vocab", str(folder), str(tmp_path / "text"), "--out", str(tmp_path / "out")]) == 0
    assert " 0.00%" not in capsys.readouterr().out


def test_what_cannot_be_encoded(folder, corpus, tmp_path, capsys):
    out = tmp_path / "out"
    start = ["encode", "--vocab", str(folder), "--out", str(out)]
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    (tmp_path / "empty").write_text(" \n")
    unlabeled = tmp_path / "unlabeled.tsv"
    unlabeled.write_text(f"{tmp_path}\na.wav\t16000\n")
    for more, message in (
        ([], "nothing to encode: give"),
        ([str(tmp_path / "missing")], "missing: cannot be read"),
        ([str(tmp_path / "latin")], "UTF-8"),
        ([str(tmp_path / "empty")], "no line with a word"),
        (["--manifest", str(unlabeled)], "no transcripts"),
    ):
        assert colld([*start, *more]) == 2
        assert message in capsys.readouterr().err
    assert not out.exists() and not list(tmp_path.glob(".out*"))
