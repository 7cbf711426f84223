"""MuST-C, Multilingual TEDx and IWSLT's sets: SPLIT/txt/SPLIT.yaml with wav, offset and duration of each segment,
SPLIT/txt/SPLIT.LANGUAGE with a line for each, and the audio in SPLIT/wav/.

The folder holds these somewhere below; several pairs of languages (`en-de/data/...`, `es-en/...`) may lie in it. The
first language of such a name is the one that is spoken; where no name tells it, --languages does.
"""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import yaml

from colld_fairseq.corpora.reading import is_text, text_lines
from colld_fairseq.corpora.request import Request, nothing_there
from colld_fairseq.corpora.timed import span
from colld_fairseq.corpora.utterance import LeftOut, Listed, Utterance
from colld_fairseq.errors import ConfigError, ManifestError
from colld_fairseq.parsing import parse_yaml

_PAIR = re.compile(r"(?:.*[._])?([a-z]{2,3})[-_]([a-z]{2,3})(?:[._].*)?", re.IGNORECASE)
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, of which a corpus takes a minute


def read(request: Request) -> Iterator[Listed]:
    paths = sorted(request.folder.rglob("*.yaml")) if request.folder.is_dir() else []
    paths = [path for path in paths if _languages_beside(path)]
    if not paths:
        raise nothing_there(request.folder, "SPLIT/txt/SPLIT.yaml with SPLIT.LANGUAGE beside it")
    for path in paths:
        if request.wants_split(path.stem):
            source = _source(path, request)
            if request.wants_language(source):
                yield from _split(path, source, request)


def _languages_beside(path: Path) -> List[str]:
    """Languages of the parallel files."""
    names = (beside.name[len(path.stem) + 1 :] for beside in path.parent.glob(f"{path.stem}.*"))
    return sorted(name for name in names if _LANGUAGE.fullmatch(name))


def _pair(path: Path, root: Path) -> Optional[Tuple[str, str]]:
    """(name, source language) of the innermost folder, `root` or below, that is called after two languages, the second
    of which has a parallel file: `en-de`, `taq_fra_clean`."""
    there = _languages_beside(path)
    for folder in [one for one in path.parents if one == root or root in one.parents]:
        match = _PAIR.fullmatch(folder.name)
        if match and match[2] in there:
            return folder.name, match[1]
    return None


def _source(path: Path, request: Request) -> str:
    there, pair = _languages_beside(path), _pair(path, request.folder)
    if pair:
        return pair[1]
    candidates = [language for language in there if language in request.languages] or list(request.languages)
    if len(candidates) != 1:
        raise ConfigError(
            f"{path}: which of {', '.join(there)} is spoken? No folder's name says it (en-de); say it by --languages"
        )
    return candidates[0]


def _split(path: Path, source: str, request: Request) -> Iterator[Listed]:
    segments = _segments(path)
    languages = [one for one in dict.fromkeys([source, *request.translate_into]) if one in _languages_beside(path)]
    parallel = {language: _parallel(path, language, len(segments)) for language in languages}
    pair = _pair(path, request.folder)
    prefix = f"{pair[0]}-" if pair else ""
    counts: Counter = Counter()
    for index, segment in enumerate(segments):
        where = f"{path}: segment {index + 1}"
        wav = segment.get("wav") if isinstance(segment, dict) else None
        if not isinstance(wav, str) or "offset" not in segment or "duration" not in segment:
            yield LeftOut(where, "malformed row", "it has not wav, offset and duration")
            continue
        sentences = {language: column[index] for language, column in parallel.items()}
        name = f"{prefix}{Path(wav).stem}_{counts[wav]}"
        counts[wav] += 1
        times = span(name, segment["offset"], segment["duration"])
        if isinstance(times, LeftOut):
            yield times
        elif not all(map(is_text, sentences.values())):
            yield LeftOut(name, "malformed row", f"its line {index + 1} of the parallel files is not UTF-8")
        else:
            text = sentences.pop(source, "")
            speaker = str(segment.get("speaker_id") or "")
            yield Utterance(name, _audio(path, wav), text, source, path.stem, speaker, sentences, *times)


def _segments(path: Path) -> List[Any]:
    """All entries. Where the file as a whole is no YAML, entry by entry, which are lines: damaged ones are None."""
    content = "\n".join(text_lines(path))
    try:
        segments = parse_yaml(content, _LOADER)
    except ValueError:
        segments = [_entry(line) for line in content.split("\n") if line.strip()]
    if not isinstance(segments, list) or not any(segments):
        raise ManifestError(f"{path}: no list of segments; copy the file again")
    return segments


def _entry(line: str) -> Optional[Dict]:
    try:
        entry = parse_yaml(line, _LOADER)
    except ValueError:
        return None
    return entry[0] if isinstance(entry, list) and entry else None


def _parallel(path: Path, language: str, count: int) -> List[str]:
    lines = text_lines(path.with_name(f"{path.stem}.{language}"))
    if len(lines) != count:
        raise ManifestError(
            f"{path.with_name(f'{path.stem}.{language}')}: {len(lines)} lines, but {path.name} has {count} segments; "
            "they are parallel: copy both again"
        )
    return lines


def _audio(path: Path, wav: str) -> str:
    """mTEDx names .wav what is .flac."""
    folder = path.parent.parent / "wav" if (path.parent.parent / "wav").is_dir() else path.parent
    flac = folder / f"{os.path.splitext(wav)[0]}.flac"
    return str(flac if os.path.isfile(flac) and not os.path.isfile(folder / wav) else folder / wav)
