"""A folder of audio files, alone (to distil from) or with a text file beside each, as the Mboshi corpus has them:
NAME.wav, NAME.mb (the transcript), NAME.fr (its translation).

The transcript is in NAME.txt or NAME.LANGUAGE, a translation in NAME.LANGUAGE, unless --columns gives another ending
(text=mb.cleaned, translation_fr=fr.cleaned). A folder `train...`, `dev...`, `valid...` or `test...` is a split, all
else `train`.
"""

import re
from pathlib import Path
from typing import Dict, Iterator, Optional

from colld_fairseq.corpora.columns import TRANSLATION, check_uses
from colld_fairseq.corpora.reading import is_text
from colld_fairseq.corpora.request import Request, nothing_there
from colld_fairseq.corpora.utterance import LeftOut, Listed, Utterance
from colld_fairseq.data.audio import SUFFIXES
from colld_fairseq.errors import ConfigError

_SPLIT = re.compile(r"(train|dev|valid|test)([-_.].*)?")


def read(request: Request) -> Iterator[Listed]:
    check_uses(request.columns, ["text"], "folder")
    root = request.folder
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise nothing_there(root, f"audio ({', '.join(SUFFIXES)})")
    for use, ending in request.columns.items():
        if not any(_beside(path, ending).is_file() for path in paths):
            raise ConfigError(f"{root}: no audio has a file NAME.{ending} beside it, as --columns {use}={ending} says")
    language = request.unsaid_language
    endings = {"text": [request.columns.get("text") or language or "txt", "txt"]}
    for target in request.translate_into:
        endings[target] = [request.columns.get(TRANSLATION + target, target)]
    for path in paths:
        split = next((part for part in path.relative_to(root).parts[:-1] if _SPLIT.fullmatch(part)), "train")
        if request.wants_split(split) and request.wants_language(language):
            yield _utterance(root, path, split, language, endings)


def _utterance(root: Path, path: Path, split: str, language: str, endings: Dict) -> Listed:
    name = str(path.relative_to(root).with_suffix(""))
    contents = {use: _content(path, of_use) for use, of_use in endings.items()}
    damaged = next((use for use, content in contents.items() if content is not None and not is_text(content)), None)
    if damaged:
        return LeftOut(name, "malformed row", f"the {damaged} beside {path} is not UTF-8; convert it to UTF-8")
    text = contents.pop("text") or ""
    translations = {target: content for target, content in contents.items() if content}
    return Utterance(name, str(path), text, language, split, translations=translations)


def _content(path: Path, endings: list) -> Optional[str]:
    """What the file beside the audio says, all of it in one line; None where there is none."""
    for ending in endings:
        beside = _beside(path, ending)
        if beside.is_file():
            return " ".join(beside.read_bytes().decode("utf-8-sig", errors="surrogateescape").split())
    return None


def _beside(path: Path, ending: str) -> Path:
    return path.parent / f"{path.stem}.{ending}"
