"""Kaldi's and ESPnet's data directories: wav.scp, text, and segments, utt2spk, utt2lang where there are; text.de or
text.tc.de holds translations into German.

The folder is one (its name is the split) or holds several. A command in wav.scp is not run: of `flac -c -d -s FILE |`
the file is read, others and Kaldi's archives (FILE.ark:OFFSET) are left out.
"""

import re
from pathlib import Path
from typing import Dict, Iterator, Optional, Union

from colld_fairseq.corpora.reading import keyed_lines
from colld_fairseq.corpora.request import Request, folders_with
from colld_fairseq.corpora.timed import span
from colld_fairseq.corpora.utterance import LeftOut, Listed, Utterance

_DECODED = re.compile(r"\S*flac(?:\s+-(?:c|d|s|dc|cd|-decode|-stdout|-silent))+\s+(?P<file>\S+)\s*\|")
_ARCHIVED = re.compile(r".+\.ark:\d+(\[.*\])?")


def read(request: Request) -> Iterator[Listed]:
    for folder in folders_with(request.folder, ["wav.scp"], "SPLIT/wav.scp"):
        if request.wants_split(folder.name):
            yield from _directory(folder, request)


def _directory(folder: Path, request: Request) -> Iterator[Listed]:
    problems: list = []
    of = lambda name: _column(folder / name, problems)  # noqa: E731
    translated = {target: of(_translation_file(folder, target)) for target in request.translate_into}
    transcripts, speakers, languages, recordings = of("text"), of("utt2spk"), of("utt2lang"), of("wav.scp")
    segments = (folder / "segments").is_file()
    yield from problems
    for entry in keyed_lines(folder / ("segments" if segments else "wav.scp")):
        if isinstance(entry, LeftOut):
            if segments:  # else it is among the problems
                yield entry
            continue
        where, name, rest = entry
        language = languages.get(name) or request.unsaid_language
        if not request.wants_language(language):
            continue
        recording, *times = rest.split() or [""] if segments else [name]
        between = _between(name, times) if segments else (0.0, None)
        audio = _audio(name, recordings.get(recording), recording, folder, request)
        problem = next((one for one in (between, audio) if isinstance(one, LeftOut)), None)
        if problem:
            yield problem
            continue
        translations = {target: column[name] for target, column in translated.items() if column.get(name)}
        yield Utterance(
            *(name, audio, transcripts.get(name, ""), language, folder.name, speakers.get(name, ""), translations),
            *between,
        )


def _translation_file(folder: Path, target: str) -> str:
    """ESPnet writes text.tc.de (true case) beside text.lc.de and text.lc.rm.de."""
    return f"text.tc.{target}" if (folder / f"text.tc.{target}").is_file() else f"text.{target}"


def _column(path: Path, problems: list) -> Dict[str, str]:
    """{utterance or recording: what the file says}; empty where there is no such file. Damaged lines go to
    `problems`."""
    if not path.is_file():
        return {}
    entries = list(keyed_lines(path))
    problems += (entry for entry in entries if isinstance(entry, LeftOut))
    return {entry[1]: entry[2] for entry in entries if not isinstance(entry, LeftOut)}


def _between(name: str, times: list) -> Union[tuple, LeftOut]:
    if len(times) != 2:
        return LeftOut(name, "malformed row", "a segment is UTTERANCE RECORDING START END")
    end = None if times[1].startswith("-1") else times[1]
    return span(name, start=times[0], end=end)


def _audio(name: str, value: Optional[str], recording: str, folder: Path, request: Request) -> Union[str, LeftOut]:
    """The file that wav.scp names."""
    if not value:
        return LeftOut(name, "missing audio", f"{folder / 'wav.scp'} has no {recording!r}")
    decoded = _DECODED.fullmatch(value)
    if decoded:
        value = decoded["file"]
    elif value.endswith("|"):
        reason = f"a command, which is not run: {value[:80]}; write the audio to files (Kaldi's copy_data_dir, sox)"
        return LeftOut(name, "audio that is not a file", reason)
    elif _ARCHIVED.fullmatch(value):
        return LeftOut(name, "audio that is not a file", f"an archive of Kaldi: {value}; write the audio to files")
    return request.audio_path(value, folder)
