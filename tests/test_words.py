"""The field's words, and no others, in code, options, messages and pages."""

import ast
import re

import pytest
from commands import REPOSITORY

#: What is not to be written -> what is.
WORDS = {
    r"(?<!axes\.)\btexts\b": "transcripts, targets or hypotheses",
    r"\blabell?ings?\b": "hypothesis",
    r"\b(hear|hears|heard|hearing)\b": "input, receptive field, context",
    r"(?<!-)\bclips?\b(?!-norm|\(|/)": "utterance; audio file where a file is meant",
    r"\b(a|per|each) (score|label|frame) an? (label|frame|utterance)\b": "per frame, per label",
    r"\b(scores?|labels|frames|tokens|symbols|bytes|updates) an? (label|frame|second|utterance|update)\b": "per",
    r"length[ _-]score": "length bonus",
    r"\b(arms?|lanes?)\b": "systems; parallel jobs",
    r"\btaps?\b": "kernel positions",
    r"\bhomeless\b": "unexpected keys",
    r"\bremembered\b": "cached",
    r"\bbands?\b": "pruned range",
    r"\bspell(s|ed|ing)?\b": "detokenize",
    r"(?<!text_)normalis": "normalize",
    r"\bstandardi[sz]e(d|s)?\b": "normalize",
    r"ctc[_-]lm|ctc[_-]length[_-]score": "ngram-lm, length-bonus",
}
VARIABLES = {"number": "index", "place": "position", "found": "result", "heard": "input"}
ALLOWED = (
    "colld_fairseq/deprecated.py",
    "tests/test_deprecated.py",
    "tests/test_words.py",
)
FOLDERS = ("colld_fairseq", "tests", "examples", "benchmarks", "manifests", "docs", "scripts")
FILES = sorted(
    path
    for pattern in ("*.py", "*.md", "*.yaml", "*.sh")
    for path in [*REPOSITORY.glob(pattern), *(p for folder in FOLDERS for p in (REPOSITORY / folder).rglob(pattern))]
    if path.relative_to(REPOSITORY).as_posix() not in ALLOWED
)


def name(path):
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("word", WORDS)
def test_no_page_and_no_line_of_code_says(word):
    pattern = re.compile(word, re.IGNORECASE)
    lines = [
        f"{name(path)}:{row}: {line.strip()[:100]}"
        for path in FILES
        for row, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not lines, f"write {WORDS[word]}"


def stored_names(tree):
    fields = {id(node.target) for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)}  # also names in files
    for node in ast.walk(tree):
        if id(node) in fields:
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


def test_variables_say_what_they_are():
    wrong = [
        f"{name(path)}:{line}: {variable} -> {VARIABLES[variable]}"
        for path in FILES
        if path.suffix == ".py"
        for variable, line in stored_names(ast.parse(path.read_text(encoding="utf-8")))
        if variable in VARIABLES
    ]
    assert not wrong


def test_the_list_is_read():
    """Files are there, and a word of the list is seen where it stands."""
    assert len(FILES) > 300 and re.search(next(iter(WORDS)), "the texts of a batch")
