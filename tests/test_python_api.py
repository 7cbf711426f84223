"""docs/python_api.md: the signatures of its tables are those of the code."""

import ast
import inspect
import re

import pytest
from commands import REPOSITORY

import colld_fairseq
from colld_fairseq.recogniser import Recogniser

PAGE = (REPOSITORY / "docs" / "python_api.md").read_text(encoding="utf-8")
SIGNATURES = re.findall(r"^\| `(\.?)(\w+)\(([^`]*)\)`", PAGE, re.MULTILINE)


def test_there_are_some():
    assert len(SIGNATURES) > 5


@pytest.mark.parametrize("dot, name, written", SIGNATURES, ids=[name for _, name, _ in SIGNATURES])
def test_a_signature(dot, name, written):
    """What has to be given is on the page; what need not has the default that is written there."""
    parameters = inspect.signature(getattr(Recogniser if dot else colld_fairseq, name)).parameters
    shown = dict((word.split("=") + [""])[:2] for word in written.split(", "))
    for parameter, default in shown.items():
        known = parameters[parameter.lstrip("*")].default
        assert ast.literal_eval(default) == known if default else known is inspect.Parameter.empty, parameter
    needed = {one.name for one in parameters.values() if one.default is one.empty} - {"self"}
    assert needed <= {parameter.lstrip("*") for parameter in shown}
