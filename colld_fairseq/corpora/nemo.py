"""NeMo's manifests: a JSON object on each line, with audio_filepath, duration, offset, text, lang.

The folder's *.json and *.jsonl are the splits (`train_manifest.json`: train), or it is one itself. Of Canary's rows,
text in another language than the speech (source_lang, target_lang) is a translation. Tarred audio is not read.
"""

from pathlib import Path
from typing import Any, Dict, Iterator, List

from colld_fairseq.corpora.reading import json_records
from colld_fairseq.corpora.request import Request, nothing_there
from colld_fairseq.corpora.timed import span
from colld_fairseq.corpora.utterance import LeftOut, Listed, Utterance

PATTERNS = ("*.json", "*.jsonl", "*.json.gz", "*.jsonl.gz")


def read(request: Request) -> Iterator[Listed]:
    for path in _manifests(request.folder):
        split = path.name.split(".")[0].removesuffix("_manifest").removeprefix("manifest_")
        if request.wants_split(split):
            for record in json_records(path):
                yield from [record] if isinstance(record, LeftOut) else _utterance(*record, split, path.parent, request)


def _manifests(folder: Path) -> List[Path]:
    if folder.is_file():
        return [folder]
    there = sorted(path for pattern in PATTERNS for path in folder.glob(pattern))
    if not there:
        raise nothing_there(folder, "NeMo manifest (*.json)")
    return there


def _utterance(where: str, row: Dict[str, Any], split: str, folder: Path, request: Request) -> Iterator[Listed]:
    audio, text = row.get("audio_filepath"), row.get("text") or ""
    language = row.get("source_lang") or row.get("lang") or request.unsaid_language
    target = row.get("target_lang") or language
    if not all(isinstance(value, str) for value in (audio, text, language, target)) or not audio:
        yield LeftOut(where, "malformed row", "audio_filepath, text or lang is no text")
        return
    if not request.wants_language(language):
        return
    if "shard_id" in row:
        yield LeftOut(where, "audio that is not a file", "it lies in a tar archive; unpack the corpus")
        return
    times = span(where, row.get("offset"), row.get("duration"))
    if isinstance(times, LeftOut):
        yield times
        return
    start, length = times
    yield Utterance(
        id=audio if not start else f"{audio}-{start:g}",
        audio=request.audio_path(audio, folder),
        text=text if target == language else "",
        language=language,
        split=split,
        speaker=str(row.get("speaker") or ""),
        translations={} if target == language else {target: text},
        start=start,
        seconds=length,
    )
