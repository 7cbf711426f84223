"""NIST's stm files (TED-LIUM and others): FILE CHANNEL SPEAKER BEGIN END [<LABELS>] TEXT, times in seconds.

They lie in the folder (`dev.stm`: its name is the split) or below it (`SPLIT/stm/TALK.stm`), the audio beside them or
in `sph/`, `wav/` or `audio/` beside their folder. Of the text, events (`{NOISE}`, `<unk>`) are not kept.
"""

import os
import re
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Set, Tuple

from colld_fairseq.corpora.reading import is_text, lines
from colld_fairseq.corpora.request import Request, nothing_there
from colld_fairseq.corpora.timed import span
from colld_fairseq.corpora.utterance import LeftOut, Listed, Utterance
from colld_fairseq.data.audio import AUDIO_SUFFIXES

IGNORED = "ignore_time_segment_in_scoring"
AUDIO_FOLDERS = ("sph", "wav", "audio", "flac")
_LABELS = re.compile(r"<[^>]*>")
_ALTERNATIVES = re.compile(r"\{[^}]* / [^}]*\}")
_EVENTS = re.compile(r"\{[^}]*\}|<[^>]*>")
Fields = Tuple[str, List[str], str]  # file:line, the five fields before the text, labels and text


def read(request: Request) -> Iterator[Listed]:
    paths = sorted(request.folder.rglob("*.stm")) if request.folder.is_dir() else []
    if not paths:
        raise nothing_there(request.folder, "file NAME.stm")
    for path in paths:
        split = _split(path, request.folder)
        if request.wants_split(split) and request.wants_language(request.unsaid_language):
            yield from _file(path, split, request)


def _split(path: Path, root: Path) -> str:
    folder = path.parent.parent if path.parent.name == "stm" else path.parent
    return path.stem if folder == root else folder.name


def _file(path: Path, split: str, request: Request) -> Iterator[Listed]:
    rows: List[Fields] = []
    channels: Dict[str, Set[str]] = {}
    for where, line in lines(path):
        fields = line.split(None, 5)
        if line.startswith(";;"):
            continue
        if len(fields) < 5 or not is_text(line):
            reason = "not UTF-8" if len(fields) >= 5 else "a row is FILE CHANNEL SPEAKER BEGIN END TEXT"
            yield LeftOut(where, "malformed row", reason)
            continue
        rows.append((where, fields[:5], fields[5] if len(fields) > 5 else ""))
        channels.setdefault(fields[0], set()).add(fields[1])
    for where, fields, text in rows:
        if len(channels[fields[0]]) > 1:
            yield LeftOut(where, "one channel of several", "write each channel to a file of its own")
        else:
            yield _utterance(path, where, fields, text, split, request)


def _utterance(path: Path, where: str, fields: List[str], text: str, split: str, request: Request) -> Listed:
    recording, _, speaker, begin, end = fields
    labels = _LABELS.match(text)
    text = text[labels.end() :] if labels else text
    if IGNORED in text:
        return LeftOut(where, "marked as not to be used", IGNORED)
    if _ALTERNATIVES.search(text):
        return LeftOut(where, "malformed row", f"alternatives in its transcript: {text.strip()[:80]}")
    times = span(where, start=begin, end=end)
    if isinstance(times, LeftOut):
        return times
    audio = _audio(path, recording)
    if audio is None:
        return LeftOut(where, "missing audio", f"no audio file {recording} beside {path.parent}")
    name = f"{Path(recording).stem}-{begin}-{end}"
    text = " ".join(_EVENTS.sub(" ", text).split())
    return Utterance(name, audio, text, request.unsaid_language, split, speaker, {}, *times)


def _audio(path: Path, recording: str) -> Optional[str]:
    folders = [path.parent, *(base / name for base in (path.parent, path.parent.parent) for name in AUDIO_FOLDERS)]
    names = [recording, *(recording + suffix for suffix in AUDIO_SUFFIXES)]
    candidates = (folder / name for folder in folders for name in names)
    return next((str(candidate) for candidate in candidates if os.path.isfile(candidate)), None)
