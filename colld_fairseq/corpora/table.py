"""Audio files and a table of them: CSV (quoted), TSV (quotes are ordinary characters) or JSON lines.

The folder's tables are the splits (`train.csv`, `dev.csv`; a single `metadata.csv` is `train`), unless they have a
column that says the split. The folder may also be such a table itself. Columns go by their usual names, or by
--columns.
"""

from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple, Union

from colld_fairseq.corpora import columns
from colld_fairseq.corpora.reading import json_records, table
from colld_fairseq.corpora.record import written_into
from colld_fairseq.corpora.request import Request, nothing_there
from colld_fairseq.corpora.timed import span
from colld_fairseq.corpora.utterance import LeftOut, Listed, Utterance

SUFFIXES = (".csv", ".tsv", ".jsonl", ".jsonl.gz")


def read(request: Request) -> Iterator[Listed]:
    for path in tables(request.folder):
        yield from _table(path, split_of(path), request)


def tables(folder: Path) -> List[Path]:
    """The folder itself if it is a table, or those in it, without what preparations have written there. Raises
    ConfigError where there is none."""
    if folder.is_file():
        return [folder]
    written = written_into(folder)
    there = sorted(path for path in folder.glob("*") if path.name.endswith(SUFFIXES) and path.name not in written)
    if not there:
        raise nothing_there(folder, f"table ({', '.join(SUFFIXES)})")
    return there


def split_of(path: Path) -> str:
    """The name of a table without its endings."""
    name = path.name.split(".")[0]
    return "train" if name == "metadata" else name


def _table(path: Path, split: str, request: Request) -> Iterator[Listed]:
    names = _names(path)
    uses = columns.resolve(names, request.columns, str(path)) if names else {}
    if "split" not in uses and not request.wants_split(split):
        return
    for record in _records(path):
        if isinstance(record, LeftOut):
            yield record
            continue
        where, fields = record
        values = {use: _plain(fields.get(name)) for use, name in uses.items()}
        yield from utterance_of(where, values, split, path.parent, request)


def _names(path: Path) -> List[str]:
    """Of the columns; of JSON objects, which may have other fields each, the fields of any."""
    rows = (record[1] for record in _records(path) if not isinstance(record, LeftOut))
    if ".json" in path.name:
        return list(dict.fromkeys(name for fields in rows for name in fields))
    return list(next(rows, {}))


def _records(path: Path) -> Iterator[Union[Tuple[str, Dict[str, Any]], LeftOut]]:
    yield from json_records(path) if ".json" in path.name else table(path)


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


def utterance_of(where: str, values: Dict[str, str], split: str, folder: Path, request: Request) -> Iterator[Listed]:
    """The utterance of a row, if it is wanted; values: by use (see `columns`)."""
    split = values.get("split") or split
    language = values.get("language") or request.unsaid_language
    if not (request.wants_split(split) and request.wants_language(language)):
        return
    audio = values["audio"]
    if not audio:
        yield LeftOut(values.get("id") or where, "malformed row", "it names no audio")
        return
    times = span(values.get("id") or where, values.get("start"), values.get("seconds"), values.get("end"))
    if isinstance(times, LeftOut):
        yield times
        return
    name = values.get("id") or (audio if times == (0.0, None) else f"{audio}-{times[0]:g}")
    yield Utterance(
        id=name,
        audio=request.audio_path(audio, folder),
        text=values.get("text", ""),
        language=language,
        split=split,
        speaker=values.get("speaker", ""),
        translations=columns.translations_of(values),
        start=times[0],
        seconds=times[1],
    )
