"""What is a language, and marks that both sides have."""

import pytest

from colld_fairseq.errors import ColldError
from colld_fairseq.scoring.languages import check_language, is_language
from colld_fairseq.scoring.sentences import _with_unknowns, read_text_files


@pytest.mark.parametrize("code", ["zh", "pt-BR", "zh_TW", "cmn_Hans", "yue", "EN", "zh-Hant-TW", "es-419", "mdw"])
def test_languages(code):
    assert is_language(code)


@pytest.mark.parametrize(
    "code", ["Chinese", "langs_typo.txt", "zn", "z", "zh.", "./zh", "zh ", "13a", "zh-", "русский"]
)
def test_what_is_none_is_refused(code, tmp_path):
    (tmp_path / "text").write_text("a\n")
    with pytest.raises(ColldError, match="--lang: .* is no language and no file"):
        read_text_files(str(tmp_path / "text"), str(tmp_path / "text"), code)
    (tmp_path / "codes").write_text(f"{code}\n", encoding="utf-8")
    with pytest.raises(ColldError, match="codes:1: .* is no language"):
        read_text_files(str(tmp_path / "text"), str(tmp_path / "text"), str(tmp_path / "codes"))
    check_language("", "--lang")


@pytest.mark.parametrize("mark", ["<unk>", "<<unk>>", "\u25a1", "\ufffd", "&quot;", "<lang:de>", "|", "\u2581"])
def test_marks_that_both_have_are_equal(mark):
    hypothesis, reference = _with_unknowns(f"a {mark} b", f"a {mark} b")
    assert hypothesis == reference


def test_unknown_tokens_never_match():
    hypothesis, reference = _with_unknowns("a <unk> b", "a <<unk>> b")
    assert not set(hypothesis) & set(reference) - set("a b")
    assert "<" not in hypothesis + reference
