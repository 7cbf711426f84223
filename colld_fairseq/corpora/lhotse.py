"""lhotse's CutSets (`cuts_train.jsonl.gz`, `libri_cuts_dev-clean.jsonl.gz`), read without lhotse: cuts of recordings
that are files, with their supervisions.

The folder's files with `cuts` in their names are the splits, or it is one such file. A cut with one supervision is an
utterance, of one with several each supervision is. A translation is taken from a supervision's custom field that
--columns names (translation_de=FIELD). Recordings in arrays, archives or commands, mixed and padded cuts, and speed
perturbation are left out, as is one channel of several.
"""

from pathlib import Path
from typing import Any, Dict, Iterator, List, Union

from colld_fairseq.corpora.columns import TRANSLATION, check_uses
from colld_fairseq.corpora.reading import json_records, seconds
from colld_fairseq.corpora.request import Request, nothing_there
from colld_fairseq.corpora.timed import span
from colld_fairseq.corpora.utterance import LeftOut, Listed, Utterance

PATTERNS = ("*cuts*.jsonl.gz", "*cuts*.jsonl")


def read(request: Request) -> Iterator[Listed]:
    check_uses(request.columns, [], "lhotse")
    for path in _files(request.folder):
        split = _split(path)
        if request.wants_split(split):
            for record in json_records(path):
                yield from [record] if isinstance(record, LeftOut) else _cut(*record, split, path.parent, request)


def _files(folder: Path) -> List[Path]:
    if folder.is_file():
        return [folder]
    there = sorted(path for pattern in PATTERNS for path in folder.glob(pattern))
    if not there:
        raise nothing_there(folder, "CutSet (*cuts*.jsonl.gz)")
    return there


def _split(path: Path) -> str:
    name = path.name.split(".jsonl")[0]
    return name.split("cuts_", 1)[1] if "cuts_" in name else name.removesuffix("_cuts")


def _cut(where: str, cut: Dict[str, Any], split: str, folder: Path, request: Request) -> Iterator[Listed]:
    name = str(cut.get("id") or where)
    try:
        audio = _audio(name, cut)
        supervisions = [dict(one) for one in cut.get("supervisions") or []]
        if isinstance(audio, LeftOut):
            yield audio
            return
        audio = request.audio_path(audio, folder)
        if len(supervisions) > 1:
            for index, supervision in enumerate(supervisions):
                start = seconds(cut["start"]) + float(supervision["start"])
                part = {**cut, "start": start, "duration": supervision["duration"]}
                part_name = str(supervision.get("id") or f"{name}-{index}")
                yield from _utterance(part_name, part, supervision, audio, split, request)
        else:
            yield from _utterance(name, cut, (supervisions or [{}])[0], audio, split, request)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        yield LeftOut(name, "malformed row", f"no cut of lhotse ({type(error).__name__}: {error})")


def _audio(name: str, cut: Dict[str, Any]) -> Union[str, LeftOut]:
    """The file of the cut's recording."""
    kind = cut.get("type", "MonoCut")
    if kind not in ("MonoCut", "Cut", "MultiCut"):
        return LeftOut(name, "audio that is not a file", f"a {kind}; write the cuts' audio to files (save_audios)")
    recording = cut.get("recording")
    if not recording:
        return LeftOut(name, "audio that is not a file", "it has features alone; make the CutSet with recordings")
    (source, *others) = recording["sources"]
    if source["type"] != "file" or str(source["source"]).endswith((".ark", ".npy")):
        reason = f"its recording is of the type {source['type']}; write the cuts' audio to files (save_audios)"
        return LeftOut(name, "audio that is not a file", reason)
    if recording.get("transforms"):
        return LeftOut(name, "audio that is not a file", "its audio is transformed (speed, volume) while it is read")
    if others or len(source["channels"]) > 1:
        return LeftOut(name, "one channel of several", "write each channel to a file of its own")
    return str(source["source"])


def _utterance(
    name: str, cut: Dict[str, Any], supervision: Dict[str, Any], audio: str, split: str, request: Request
) -> Iterator[Listed]:
    language = supervision.get("language") or request.unsaid_language
    if not request.wants_language(language):
        return
    custom = supervision.get("custom") or {}
    fields = {use[len(TRANSLATION) :]: name for use, name in request.columns.items() if use.startswith(TRANSLATION)}
    translations = {target: str(custom[field]) for target, field in fields.items() if custom.get(field)}
    times = span(name, cut["start"], cut["duration"])
    if isinstance(times, LeftOut):
        yield times
        return
    yield Utterance(
        *(name, audio, supervision.get("text") or "", language, split, str(supervision.get("speaker") or "")),
        *(translations, *times),
    )
