"""A dataset of Hugging Face on disk, read with pyarrow alone: as `save_to_disk` writes it (SPLIT/data-*.arrow) or as
the hub has it (CONFIG/SPLIT-00000-of-00004.parquet, also in `data/`).

Audio is a column of {bytes, path}. Bytes are written into zip archives, paths are read where they are. Other columns go
by their usual names, or by --columns.
"""

import os
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pyarrow as pa
import pyarrow.parquet

from colld_fairseq.corpora import columns
from colld_fairseq.corpora.arrow_audio import PARQUET, ArrowAudio, open_arrow
from colld_fairseq.corpora.request import Request, nothing_there
from colld_fairseq.corpora.table import utterance_of
from colld_fairseq.corpora.utterance import Listed, Utterance
from colld_fairseq.errors import ManifestError

_SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")
_GENERIC = ("data", "default", "main")  # folders whose names say no configuration


def read(request: Request) -> Iterator[Listed]:
    rows_before: Dict[str, int] = {}  # of each folder and split: ids count through its files
    for path, split in _files(request.folder):
        if request.wants_split(split):
            prefix = "-".join(part for part in path.relative_to(request.folder).parts[:-1] if part not in _GENERIC)
            prefix = prefix if prefix.endswith(split) else "-".join(filter(None, [prefix, split]))
            first = rows_before.get(prefix, 0)
            count, utterances = _rows(path, split, prefix, first, request)
            rows_before[prefix] = first + count
            yield from utterances


def _files(folder: Path) -> List[Tuple[Path, str]]:
    """(file, split) of everything there, in order."""
    files = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        shard = _SHARD.fullmatch(path.stem)
        if path.suffix == PARQUET:
            files.append((path, shard["split"] if shard else path.stem))
        elif path.suffix == ".arrow" and not path.name.startswith("cache-"):
            in_split = path.parent != folder and (path.parent.parent / "dataset_dict.json").is_file()
            files.append((path, path.parent.name if in_split else "train"))
    if not files:
        raise nothing_there(folder, "*.arrow or *.parquet")
    return files


def _rows(path: Path, split: str, prefix: str, first: int, request: Request) -> Tuple[int, Iterator[Listed]]:
    """Rows of a file, and their utterances; first: rows of the same split before it."""
    try:
        schema, count = _schema(path)
        uses = columns.resolve(schema.names, _given(schema, request), str(path))
        wanted = {use: name for use, name in uses.items() if use != "audio"}
        inside = _is_struct(schema.field(uses["audio"]).type)
        paths, fields = _text_columns(path, uses["audio"], inside, wanted)
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(f"{path}: no table of Arrow or parquet ({error}); copy the file again") from error

    def utterances() -> Iterator[Listed]:
        for row in range(count):
            values = {use: "" if column[row] is None else str(column[row]) for use, column in fields.items()}
            values.setdefault("id", f"{prefix}-{first + row:06d}")
            audio_name = paths[row] or ""
            for one in utterance_of(
                f"{path}:row {row + 1}", {**values, "audio": audio_name or "-"}, split, path.parent, request
            ):
                if isinstance(one, Utterance) and inside and not _is_file(one.audio):
                    one = one._replace(audio=ArrowAudio(str(path), row, uses["audio"], audio_name))
                yield one

    return count, utterances()


def _schema(path: Path) -> Tuple[pa.Schema, int]:
    if path.suffix == PARQUET:
        parquet = pyarrow.parquet.ParquetFile(path)
        return parquet.schema_arrow, parquet.metadata.num_rows
    table = open_arrow(str(path))
    return table.schema, len(table)


def _is_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _given(schema: pa.Schema, request: Request) -> Dict[str, str]:
    """--columns, and the only column that holds audio, whatever its name."""
    structs = [field.name for field in schema if _is_struct(field.type)]
    return {**({"audio": structs[0]} if len(structs) == 1 else {}), **request.columns}


def _text_columns(
    path: Path, audio: str, inside: bool, wanted: Dict[str, str]
) -> Tuple[List[Any], Dict[str, List[Any]]]:
    """The names of the audio files, and the other columns by use; no audio is read."""
    if path.suffix == PARQUET:
        names = [*wanted.values(), f"{audio}.path" if inside else audio]
        table = pyarrow.parquet.ParquetFile(path).read(columns=names)
    else:
        table = open_arrow(str(path))
    column = table.column(audio)
    if inside:
        column = pa.chunked_array([chunk.field("path") for chunk in column.chunks], pa.string())
    return column.to_pylist(), {use: table.column(name).to_pylist() for use, name in wanted.items()}


def _is_file(path: Any) -> bool:
    return os.path.isfile(path)
