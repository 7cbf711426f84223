"""Manifests with .ltr and .wrd files beside them, made by fairseq's own scripts for wav2vec 2.0."""

import fairseq_layouts
import pytest
from fairseq.data import Dictionary

from colld_fairseq.data.labels import text_of_letters
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.errors import ColldError, ManifestError


@pytest.fixture
def letters(tmp_path):
    return fairseq_layouts.write_letters(tmp_path, 6)


@pytest.mark.parametrize("suffix", ["ltr", "wrd"])
def test_texts_are_those_of_fairseq(suffix, letters):
    (letters / f"train.{'wrd' if suffix == 'ltr' else 'ltr'}").rename(letters / "other")
    rows = read_manifest(str(letters / "train.tsv"))
    transcripts = (letters / "audio" / "1" / "2" / "1-2.trans.txt").read_text(encoding="utf-8").splitlines()
    expected = dict(line.split(" ", 1) for line in transcripts)
    assert rows.has_text and len(rows) == 6
    assert [rows.row(i).tgt_text for i in range(6)] == [
        expected[rows.row(i).id.split("/")[-1].removesuffix(".flac")] for i in range(6)
    ]


def test_token_ids_are_those_of_fairseq(letters):
    """But for the boundary behind the last word."""
    rows, vocabulary = read_manifest(str(letters / "train.tsv")), Vocabulary(str(letters))
    theirs = Dictionary.load(str(letters / "dict.ltr.txt"))
    for index, line in enumerate((letters / "train.ltr").read_text(encoding="utf-8").splitlines()):
        *expected, boundary = theirs.encode_line(line, add_if_not_exist=False, append_eos=False).tolist()
        assert vocabulary.encode(rows.row(index).tgt_text, append_eos=False).tolist() == expected
        assert theirs[boundary] == "|"


def test_lines_that_do_not_go_with_the_rows(letters):
    with open(letters / "train.ltr", "a", encoding="utf-8") as out:
        out.write("A |\n")
    with pytest.raises(
        ManifestError, match=r"train\.ltr: 7 lines, but .*train\.tsv has 6 rows; write one for each row"
    ):
        read_manifest(str(letters / "train.tsv"))
    (letters / "train.ltr").write_bytes(b"A |\n\xff\n")
    with pytest.raises(ColldError, match=r"train\.ltr:2: .*not UTF-8"):
        read_manifest(str(letters / "train.tsv"))


def test_letters_to_text():
    assert text_of_letters("H I | Y O U |") == "HI YOU" and text_of_letters("") == "" and text_of_letters("|") == ""
