"""Audio that lies inside a table of Arrow or parquet: the contents of a file, in a cell."""

import functools
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet

from colld_fairseq.errors import AudioError

PARQUET = ".parquet"


class ArrowAudio(NamedTuple):
    """Row `row` (from 0) of the table `file`, whose `column` holds {bytes, path}; name: of the audio file, if known."""

    file: str
    row: int
    column: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.file}:row {self.row + 1}"

    def read(self) -> bytes:
        """The contents of the audio file. Raises AudioError."""
        try:
            cell = _cell(self.file, self.row, self.column)
        except (OSError, pa.ArrowException, IndexError, KeyError) as error:
            raise AudioError(f"{self}: cannot be read ({error}); copy the file again") from error
        content = cell.get("bytes") if isinstance(cell, dict) else None
        if not content:
            raise AudioError(f"{self}: no audio in the column {self.column!r}; remove the row")
        return content


def _cell(file: str, row: int, column: str) -> object:
    if not file.endswith(PARQUET):
        return open_arrow(file).column(column)[row].as_py()
    parquet = _parquet(file)
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        if row < rows:
            return _row_group(file, group, column).column(column)[row].as_py()
        row -= rows
    raise IndexError("the file has fewer rows")


@functools.lru_cache(maxsize=2)
def open_arrow(file: str) -> pa.Table:
    """A file of Arrow's stream format, as `datasets` writes it, or of its file format; mapped, not read."""
    source = pa.memory_map(file)
    try:
        table = pa.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid:
        source.seek(0)
        table = pa.ipc.open_file(source).read_all()
    table.validate(full=True)  # a damaged file must not be read outside its bounds
    return table


@functools.lru_cache(maxsize=2)
def _parquet(file: str) -> pyarrow.parquet.ParquetFile:
    return pyarrow.parquet.ParquetFile(file)


@functools.lru_cache(maxsize=1)
def _row_group(file: str, group: int, column: str) -> pa.Table:
    return _parquet(file).read_row_group(group, columns=[column])
