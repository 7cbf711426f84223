"""JSON lines: whoever reads them, by whatever rule for the end of a line, finds the same entries."""

import json

import pytest

from colld_fairseq.json_lines import json_line, read_json_lines

LINES = [
    "а\u2028б",
    "x\u2029y",
    "x\u0085y",
    "x\ry",
    "x\r\ny",
    "x\ny",
    "\x0b\x0c\x1c\x1d\x1e",
    "caf\udce9",
    "\x00",
    "\t",
    "",
]


@pytest.mark.parametrize("text", LINES)
def test_every_reader_finds_the_same(text, tmp_path):
    entries = [{"id": text, "text": [text, 1]}, {"id": "b"}]
    path = tmp_path / "lines"
    path.write_bytes(b"".join(map(json_line, entries)))
    assert [entry for _, entry in read_json_lines(path)] == entries
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == entries
    with open(path, encoding="utf-8") as file:
        assert [json.loads(line) for line in file] == entries


def test_letters_stay_readable():
    assert json_line("añ漢") == '"añ漢"\n'.encode()
