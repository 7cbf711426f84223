"""Text files of corpora: damaged lines are told apart from good ones, and never drop silently.

Bytes that are no UTF-8 are read as lone surrogates, so that one damaged line does not end the reading; `is_text` tells.
"""

import contextlib
import csv
import gzip
import re
import sys
import zlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, TextIO, Tuple, Union

from colld_fairseq.corpora.utterance import LeftOut
from colld_fairseq.errors import ManifestError
from colld_fairseq.parsing import parse_json

_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_TEXT = "not UTF-8; convert the file to UTF-8"


class Record(NamedTuple):
    """A row of a table: where it is (file:line), and its fields by column name."""

    where: str
    fields: Dict[str, str]


def lines(path: Path) -> Iterator[Tuple[str, str]]:
    r"""(file:line, line without its end) of all lines that are not blank; only "\n" ends one. Raises ManifestError."""
    with _opened(path) as handle:
        for index, line in enumerate(handle, start=1):
            line = line.rstrip("\r\n")
            if line.strip():
                yield f"{path}:{index}", line


def text_lines(path: Path) -> List[str]:
    """All lines, blank ones too: those of a parallel text. Raises ManifestError."""
    with _opened(path) as handle:
        return [line.rstrip("\r\n") for line in handle]


def is_text(text: str) -> bool:
    """Whether it was UTF-8."""
    return _SURROGATE.search(text) is None


def keyed_lines(path: Path, separator: Optional[str] = None) -> Iterator[Union[Tuple[str, str, str], LeftOut]]:
    """(file:line, key, rest) of lines `KEY rest`; separator: None for any white space. A key alone has the rest ""."""
    for where, line in lines(path):
        key, *rest = line.strip().split(separator, 1) if separator is None else line.split(separator, 1)
        if is_text(line):
            yield where, key, rest[0].strip() if rest else ""
        else:
            yield LeftOut(where, "malformed row", _NOT_TEXT)


def table(
    path: Path, columns: Optional[Sequence[str]] = None, required: Sequence[str] = ()
) -> Iterator[Union[Record, LeftOut]]:
    """Rows of a table with tabs between its fields, or with commas or semicolons (`.csv`: quoted as there).

    columns: their names, where the file has no header. required: columns without which it cannot be used. With tabs,
    quotes are ordinary characters. Raises ManifestError: no such file, no header, a required column that is missing.
    """
    csv.field_size_limit(sys.maxsize)  # the default limits a field to 128 KiB
    with _opened(path) as handle:
        how = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        if path.suffix == ".csv":
            how = {"delimiter": _csv_delimiter(handle.readline())}
            handle.seek(0)
        reader = csv.reader(handle, **how)
        names = list(columns) if columns else _header(path, reader)
        missing = [name for name in required if name not in names]
        if missing or not names:
            raise ManifestError(
                f"{path}:1: no column {', '.join(missing) or 'at all'} (it has: {', '.join(names) or 'nothing'}); "
                "copy the table again, or see whether the layout is another"
            )
        while True:
            before = reader.line_num
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield LeftOut(f"{path}:{reader.line_num}", "malformed row", f"cannot be parsed ({error})")
                continue
            record = _record(f"{path}:{reader.line_num}", names, values) if values else None
            if isinstance(record, LeftOut):  # a quote without its end joins lines: each is counted
                yield from (record._replace(id=f"{path}:{line}") for line in range(before + 1, reader.line_num + 1))
            elif record:
                yield record


def _csv_delimiter(header: str) -> str:
    """Spreadsheets write semicolons where a comma is a decimal sign."""
    return ";" if ";" in header and "," not in header else ","


def _header(path: Path, reader: Iterator[List[str]]) -> List[str]:
    try:
        return [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise ManifestError(f"{path}:1: cannot be parsed ({error}); copy the table again") from error


def _record(where: str, names: Sequence[str], values: Sequence[str]) -> Union[Record, LeftOut]:
    if len(values) != len(names):
        return LeftOut(where, "malformed row", f"{len(values)} fields, but there are {len(names)} columns")
    if not all(map(is_text, values)):
        return LeftOut(where, "malformed row", _NOT_TEXT)
    return Record(where, dict(zip(names, values)))


def json_records(path: Path) -> Iterator[Union[Tuple[str, Dict[str, Any]], LeftOut]]:
    """(file:line, object) of a file with a JSON object on each line, `.gz` or not. Raises ManifestError for a list."""
    for where, line in lines(path):
        if where == f"{path}:1" and line.lstrip().startswith("["):
            raise ManifestError(
                f"{where}: is one JSON list, not an object on each line; make it one: jq -c '.[]' {path} > NEW.jsonl"
            )
        try:
            entry = parse_json(line)
        except ValueError as error:
            yield LeftOut(where, "malformed row", f"no JSON ({error})")
            continue
        if not isinstance(entry, dict) or not is_text(line):
            yield LeftOut(where, "malformed row", _NOT_TEXT if isinstance(entry, dict) else "no JSON object")
        else:
            yield where, entry


def seconds(value: Any) -> Optional[float]:
    """A time in seconds, or None for what is none."""
    try:
        time = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return time if 0 <= time < 1e9 else None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A text file, gzip or not, whose errors name it."""
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="\n") as handle:
            yield handle
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(f"{path}: cannot be read ({reason}); check the path, or copy the file again") from error
