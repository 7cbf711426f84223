"""A few cases of every property of fuzz_cases.py, always the same; `make fuzz` tries thousands of others."""

import importlib.util
from pathlib import Path

import pytest
from fuzz_cases import PROPERTIES, Property, damaged
from hypothesis import strategies as st

spec = importlib.util.spec_from_file_location("fuzz_main", Path(__file__).with_name("__main__.py"))
fuzz_main = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz_main)


@pytest.mark.parametrize("name", PROPERTIES)
def test_property(name):
    assert fuzz_main.run(PROPERTIES[name], 25, derandomize=True, database=None) > 0


def test_what_does_not_hold_is_told():
    """A reader that drops what follows a zero byte."""

    def check(content):
        assert len(content.split(b"\0")[0]) == len(content)

    with pytest.raises(AssertionError):
        fuzz_main.run(Property(damaged([b"name\tvalue\n" * 3]), check), 200, derandomize=True, database=None)


def test_the_night_says_what_failed(monkeypatch, capsys):
    good, bad = Property(st.just(1), lambda case: None), Property(st.just(1), lambda case: 1 / 0)
    monkeypatch.setattr(fuzz_main, "PROPERTIES", {"good": good, "bad": bad})
    monkeypatch.setattr("sys.argv", ["fuzz", "--cases", "3"])
    assert fuzz_main.main() == 1
    output = capsys.readouterr().out
    assert "good: 1 cases" in output and "bad: FAILED" in output and "ZeroDivisionError" in output
