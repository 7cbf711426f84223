"""JSON lines, written so that every reader sees one entry per line, whatever it takes for the end of a line."""

import json
import os
import re
from typing import Any, Iterator, Tuple, Union

from colld_fairseq.parsing import parse_json

# Ends of lines for `str.splitlines` and others, and bytes of names that are not UTF-8: written as JSON's escapes.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def json_line(entry: Any) -> bytes:
    """One entry as a line in UTF-8, with its end."""
    text = json.dumps(entry, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode() + b"\n"


def read_json_lines(path: Union[str, "os.PathLike[str]"]) -> Iterator[Tuple[int, Any]]:
    """(line, entry) of every line that is not blank, one at a time. Raises OSError, and ValueError for what is no JSON,
    after the lines before it.
    """
    with open(path, "rb") as file:
        for row, line in enumerate(file, start=1):
            if line.strip():
                yield row, parse_json(line)
