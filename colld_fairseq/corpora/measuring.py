"""Opens the audio of utterances: how long each is, or why it cannot be used; on request packs it into a zip archive.

Utterances are handled in parts of consecutive ones, in any number of processes; what a part gives depends on the corpus
alone. A segment is `FILE:OFFSET:LENGTH` in a manifest: its file is not copied.
"""

import io
import os
import re
import zipfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import soundfile

from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.corpora.arrow_audio import ArrowAudio
from colld_fairseq.corpora.utterance import LeftOut, Utterance
from colld_fairseq.data.audio import (
    AUDIO_SUFFIXES,
    Length,
    audio_length,
    find_zip_members,
    open_bytes,
    read_audio,
    resampled_length,
    split_zip_spec,
)
from colld_fairseq.errors import AudioError
from colld_fairseq.files import written_atomically

PART = 500  # utterances of a part: what a stopped run has to do again at most, for each process
TOLERANCE = 0.1  # seconds that a segment may reach beyond its file, which then ends it; as `colld doctor` allows
_WHOLE = 0.01  # seconds: a segment that leaves out less of its file is the whole file
_NO_NAME = re.compile(r"[^\w.-]")
_DATE = (1980, 1, 1, 0, 0, 0)  # of members of archives, so that these are the same from every run


class Source(NamedTuple):
    """What of an utterance says where its audio is."""

    id: str
    audio: Union[str, ArrowAudio]
    start: float
    seconds: Optional[float]


class Measured(NamedTuple):
    """The audio as a manifest names it, and samples at 16 kHz."""

    audio: str
    samples: int


Result = Union[Measured, LeftOut]


def sources(utterances: Sequence[Utterance]) -> List[Source]:
    return [Source(one.id, one.audio, one.start, one.seconds) for one in utterances]


def measure(part: Sequence[Source], archive: Optional[Path] = None) -> List[Result]:
    """What became of each utterance, in order; with `archive`, their audio is written there and named in it."""
    lengths = _Lengths()
    if archive is None:
        return [_measured(source, lengths) for source in part]
    return _pack(part, archive, lengths)


class _Lengths:
    """Lengths of files, each opened once while the utterances in it follow each other."""

    def __init__(self) -> None:
        self.path: Optional[str] = None
        self.result: Union[Length, AudioError] = AudioError("")

    def __call__(self, path: str) -> Length:
        if path != self.path:
            try:
                self.path, self.result = path, audio_length(path)
            except AudioError as error:
                self.result = error
        if isinstance(self.result, AudioError):
            raise self.result
        return self.result


def _measured(source: Source, lengths: _Lengths) -> Result:
    try:
        length = lengths(source.audio)
    except AudioError as error:
        return _unreadable(source, error)
    between = _samples(source, length)
    if isinstance(between, LeftOut):
        return between
    if between is None:
        return Measured(source.audio, length.resampled)
    start, count = between
    if split_zip_spec(source.audio):
        return LeftOut(
            source.id, "audio that is not a file", "a segment of a member of an archive; unpack it, or --zip"
        )
    return Measured(f"{source.audio}:{start}:{count}", resampled_length(count, length.sample_rate, SAMPLE_RATE))


def _samples(source: Source, length: Length) -> Union[None, Tuple[int, int], LeftOut]:
    """First sample and number of samples, at the file's rate, of an utterance in a file; None for all of it."""
    if source.start == 0 and source.seconds is None:
        return None
    if not length.sample_rate:
        return LeftOut(source.id, "unreadable audio", f"{source.audio}: its sampling rate changes; write it again")
    total, rate = length.samples, length.sample_rate
    start = round(source.start * rate)
    end = total if source.seconds is None else round((source.start + source.seconds) * rate)
    if end > total + TOLERANCE * rate or start >= total or end <= start:
        times = f"{source.start:g} to {end / rate:g} s"
        return LeftOut(source.id, "segment outside its file", f"{times}, but {source.audio} has {total / rate:g} s")
    if start <= _WHOLE * rate and end >= total - _WHOLE * rate:
        return None
    return start, min(end, total) - start


def _unreadable(source: Source, error: AudioError) -> LeftOut:
    missing = isinstance(error.__cause__, FileNotFoundError)
    return LeftOut(source.id, "missing audio" if missing else "unreadable audio", str(error))


def _pack(part: Sequence[Source], path: Path, lengths: _Lengths) -> List[Result]:
    results: Dict[int, Result] = {}
    members: Dict[int, Tuple[str, int]] = {}  # name in the archive, samples
    with written_atomically(path) as handle, zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
        for index, source in enumerate(part):
            packed = _content(source, lengths)
            if isinstance(packed, LeftOut):
                results[index] = packed
                continue
            content, suffix, samples = packed
            name = f"{index:03d}-{_NO_NAME.sub('_', source.id)[-100:]}{suffix}"
            archive.writestr(zipfile.ZipInfo(name, _DATE), content)
            members[index] = (name, samples)
    specs = find_zip_members(str(path))
    results.update((index, Measured(specs[name], samples)) for index, (name, samples) in members.items())
    return [results[index] for index in range(len(part))]


def _content(source: Source, lengths: _Lengths) -> Union[Tuple[bytes, str, int], LeftOut]:
    """An audio file of the utterance alone, its ending, and samples at 16 kHz: its file as it is, a segment as FLAC."""
    try:
        if isinstance(source.audio, ArrowAudio):
            content, name = source.audio.read(), source.audio.name
            length = audio_length(str(source.audio), content)
        elif source.start == 0 and source.seconds is None:
            name = source.audio
            with open_bytes(name) as handle:
                content = handle.read()
            length = audio_length(name, content)
        else:
            return _cut(source, lengths)
    except AudioError as error:
        return _unreadable(source, error)
    if isinstance(source.audio, ArrowAudio) and isinstance(_samples(source, length), tuple):
        return LeftOut(source.id, "audio that is not a file", "a segment of audio in a table; write it to files first")
    return content, _suffix(name), length.resampled


def _suffix(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()
    return suffix if suffix in AUDIO_SUFFIXES else ""


def _cut(source: Source, lengths: _Lengths) -> Union[Tuple[bytes, str, int], LeftOut]:
    """A segment at its own rate: mono, 16 bits."""
    measured = _measured(source, lengths)
    if isinstance(measured, LeftOut):
        return measured
    rate = lengths(source.audio).sample_rate
    buffer = io.BytesIO()
    soundfile.write(buffer, read_audio(measured.audio, rate), rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue(), ".flac", measured.samples
