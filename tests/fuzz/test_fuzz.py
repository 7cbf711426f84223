"""A few cases of every property of fuzz_cases.py, always the same; `make fuzz` tries thousands of others."""

import importlib.util
import json
from pathlib import Path

import pytest
from fuzz_cases import CACHE, DEEP, PROPERTIES, SPEECH_TO_TEXT, Property, arrays, damaged, sounds
from hypothesis import strategies as st

spec = importlib.util.spec_from_file_location("fuzz_main", Path(__file__).with_name("__main__.py"))
fuzz_main = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz_main)


@pytest.mark.parametrize("name", PROPERTIES)
def test_property(name):
    assert fuzz_main.run(PROPERTIES[name], 25, derandomize=True, database=None) > 0


SLOW_RATE = bytearray(sounds()[0])
SLOW_RATE[24:28] = (1).to_bytes(4, "little")  # Hz, of a wav
FORMER = {
    "a length beyond 64 bits": ("manifest", SPEECH_TO_TEXT.replace(b"npy\t50\t", b"npy\t999999999999999999\t")),
    "nested too deeply": ("n-best lists", DEEP),
    "a tag of YAML": ("vocabulary", b"a: !!bool x"),
    "a sampling rate of 1 Hz": ("audio", bytes(SLOW_RATE)),
    "a header that is no Python": ("stored filterbanks", arrays()[3]),
    "a whole number beyond floats": ("values of options", "9" * 400),
    "a layer a billion times": ("values of options", "[(1, 2, 3)] * 1000000000000"),
    "settings nested too deeply": ("config.json", (DEEP, b"{}")),
    "settings of another type": ("config.json", (b'{"model_type": "hubert", "hidden_size": "wide"}', b"{}")),
    "many parts": ("teacher cache", (json.dumps({**CACHE, "num_parts": 10**30}).encode(), b"{}", b"{}")),
}


@pytest.mark.parametrize("case", FORMER)
def test_what_once_went_wrong(case):
    name, content = FORMER[case]
    PROPERTIES[name].check(content)


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
