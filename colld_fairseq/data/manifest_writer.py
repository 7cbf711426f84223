"""Writes manifests of either format (manifests/README.md), so that `read_manifest` reads back what was meant.

Fields are never quoted: a tab or line break inside one would split its row. In transcripts, targets and speakers it
becomes a space;
in names (id, audio, languages), which something else refers to, it is an error. So is anything else that
`read_manifest` would refuse.
"""

import operator
import os
import re
from typing import Iterable, Iterator, List, Mapping, Optional, Set, Union

from colld_fairseq.data.fbank import fbank_length
from colld_fairseq.data.manifest import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, Row
from colld_fairseq.errors import ManifestError
from colld_fairseq.files import written_atomically

COLUMNS = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)  # of a speech-to-text manifest, as they are written
_TEXTS = ("tgt_text", "speaker", "src_text")
_BREAKS = re.compile("[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")  # ends of fields and lines to any program


def write_manifest(
    path: Union[str, os.PathLike],
    rows: Iterable[Row],
    root: Union[None, str, os.PathLike] = None,
    more: Optional[Mapping[str, Iterable[str]]] = None,
) -> int:
    """Write all rows or, where one is refused or the run is stopped, no file; returns how many there are.

    rows: `audio` as it is to stand in the file, absolute or relative to the manifest's folder; `line` is not used.
    root: write the audio-only format, whose `audio` is relative to this folder and whose other fields are left out.
    more: further columns of a speech-to-text manifest, a value for each row, in the rows' order.

    Raises ManifestError naming the row: a name that is empty, repeated (ids), not UTF-8 or has a tab or line break; a
    length that is no whole number >= 0.
    """
    more = dict(more or {})
    count = 0
    with written_atomically(path) as handle:
        head = [*COLUMNS, *more] if root is None else [checked_name(os.fspath(root), "root folder")]
        handle.write("\t".join(head).encode() + b"\n")
        for line in _lines(path, rows, root is None, [iter(values) for values in more.values()]):
            handle.write(line)
            count += 1
    return count


def checked_name(name: str, what: str) -> str:
    """The name itself. ManifestError where no manifest can hold it; `what` says what it names."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ManifestError(f"the {what} {name!r} is not UTF-8, as manifests are; rename it") from error
    if re.search("[\t\n\r]", name):
        raise ManifestError(f"the {what} {name!r} has a tab or line break, which would split its row; rename it")
    if not name.strip():
        raise ManifestError(f"the {what} is empty; every row needs one")
    return name


def _lines(path, rows: Iterable[Row], speech_to_text: bool, more: List[Iterator[str]]) -> Iterator[bytes]:
    seen: Set[str] = set()
    for index, row in enumerate(rows):
        try:
            key = row.id if speech_to_text else str(row.audio)
            if key in seen:
                raise ManifestError(f"the id {key!r} is that of an earlier row, too; give every row one of its own")
            seen.add(key)
            fields = [_field(row, name) for name in (COLUMNS if speech_to_text else ("audio", "n_frames"))]
            yield "\t".join([*fields, *(_clean(str(next(values))) for values in more)]).encode(errors="replace") + b"\n"
        except ManifestError as error:
            raise ManifestError(f"{path}: row {index + 1} cannot be written: {error}") from error


def _field(row: Row, name: str) -> str:
    if name == "n_frames":
        try:
            length = operator.index(row.n_samples)
        except TypeError:
            length = -1
        if length < 0:
            raise ManifestError(f"its length is {row.n_samples!r}; it must be a whole number of samples at 16 kHz")
        return str(fbank_length(length) if row.kind == "fbank" else length)
    value = str(getattr(row, name))
    if name in _TEXTS:
        return _clean(value)
    return checked_name(value, name) if value or name in REQUIRED_COLUMNS else value


def _clean(text: str) -> str:
    return _BREAKS.sub(" ", text)
