"""docs/troubleshooting.md finds messages by their words: each of them is said somewhere in the package."""

import ast
import re

import pytest
from commands import PACKAGE, REPOSITORY

PAGE = REPOSITORY / "docs" / "troubleshooting.md"
FROM_ELSEWHERE = ("truncated", "--find-unused-parameters")  # words of libsndfile and of torch


def strings():
    """Everything in quotes, adjacent literals joined; of f-strings the parts between the braces."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def quoted():
    rows = [line.split("|")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return [words for row in rows for words in re.findall(r"`([^`]+)`", row) if words not in FROM_ELSEWHERE]


SAID = "\n".join(strings())


def test_messages_were_found():
    assert len(quoted()) > 10


@pytest.mark.parametrize("words", quoted())
def test_message_is_said_by_the_package(words):
    missing = [part for part in re.split(r"\s*…\s*", words) if part and part not in SAID]
    assert not missing
