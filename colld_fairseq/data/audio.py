"""Audio of any format libsndfile reads (wav, flac, ogg, opus, mp3, ...) as 16 kHz mono float32, and of those that PyAV
or ffmpeg read where one is installed (m4a, mp4, webm, ...; media.py).

A path is a file; `archive.zip:offset:length`, the bytes of an uncompressed ("stored") zip member; or
`file:offset:length`, a segment in samples at the file's own rate (as in fairseq's raw-audio manifests). A file that
really has such a name comes first. A file is read to its end, or AudioError names it and the remedy.
"""

import contextlib
import functools
import io
import itertools
import os
import re
import struct
import zipfile
from typing import Any, BinaryIO, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import soundfile
import soxr

from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.data import media
from colld_fairseq.data.containers import find_streams, foreign_format
from colld_fairseq.data.containers.stream import Stream
from colld_fairseq.errors import AudioError
from colld_fairseq.files import printable

# Looked for in folders and archives; a file given by name may have any. The former are read without PyAV and ffmpeg.
AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    *(".aif", ".aiff", ".au", ".caf", ".sph", ".w64"),
)
SUFFIXES = (*AUDIO_SUFFIXES, *media.SUFFIXES)
_ZIP_SPEC = re.compile(r"(?P<zip>.+\.zip):(?P<offset>\d+):(?P<length>\d+)", re.IGNORECASE | re.DOTALL)
_SEGMENT_SPEC = re.compile(r"(?P<file>.+):(?P<offset>\d+):(?P<length>\d+)", re.DOTALL)
_ADDRESS = re.compile(r"(?:^|/)(?:https?|ftp|s3|gs)://")  # perhaps behind a manifest's root
_LOCAL_HEADER_BYTES = 30  # fixed part of a zip member's local header
_LOUDEST = 2.0**31  # full scale is 1; some keep float samples on an integer scale, of 32 bits at most
_LOGGED = ("VOC", "MAT4")  # libsndfile shortens these, but says so in its log
_UNKNOWN = 1 << 62  # frames: libsndfile does not know the length
_RATES = (1_000, 1_000_000)  # Hz; others are of damaged headers, and resampling could take all memory there is
_BLOCK = 1 << 20  # samples read at a time where their number is not known
# seeking in these gives exactly the samples of a full decode
_LOSSLESS = ("WAV", "WAVEX", "FLAC", "AIFF", "RF64")


class AudioInfo(NamedTuple):
    """Samples after resampling, the file's own rate in Hz, its channels."""

    num_samples: int
    sample_rate: int
    channels: int


class Length(NamedTuple):
    """Samples after resampling; samples as they are in the file; their rate in Hz, 0 where it
    changes (chained streams)."""

    resampled: int
    samples: int
    sample_rate: int


def split_zip_spec(path_spec: str) -> Optional[Tuple[str, int, int]]:
    """`archive.zip:offset:length` as its three parts, or None for anything else (a file with colons included)."""
    return _split_spec(_ZIP_SPEC, path_spec)


def split_segment_spec(path_spec: str) -> Optional[Tuple[str, int, int]]:
    """`file:offset:length` as its three parts, or None for anything else: no such file, or one with this very name."""
    parts = None if split_zip_spec(path_spec) else _split_spec(_SEGMENT_SPEC, path_spec)
    return parts if parts and os.path.isfile(parts[0]) and not os.path.exists(path_spec) else None


def _split_spec(pattern: re.Pattern, path_spec: str) -> Optional[Tuple[str, int, int]]:
    match = pattern.fullmatch(path_spec)
    return match and (match[1], int(match[2]), int(match[3]))


def audio_info(path_spec: str, sample_rate: int = SAMPLE_RATE) -> AudioInfo:
    """Length, rate and channels: as many samples as `read_audio` gives.

    From the headers, where they can be trusted; the audio is decoded where they cannot (an mp3 without a length).
    AudioError as there, but for what only decoding shows.
    """
    with _opened(path_spec) as sounds:
        rate, channels = sounds[0].samplerate, sounds[0].channels
        samples = sum(resampled_length(sound.frames, sound.samplerate, sample_rate) for sound in sounds)
    if samples == 0:
        raise _no_samples(path_spec)
    return AudioInfo(samples, rate, channels)


def audio_length(path_spec: str, content: Optional[bytes] = None) -> Length:
    """Length of a file or segment, or of a file's `content` where that was read already (`path_spec` is then only its
    name), at 16 kHz and at its own rate. AudioError as `audio_info`."""
    with _sounds(path_spec, io.BytesIO(content)) if content is not None else _opened(path_spec) as sounds:
        resampled = sum(resampled_length(sound.frames, sound.samplerate, SAMPLE_RATE) for sound in sounds)
        rates = {sound.samplerate for sound in sounds}
        length = Length(resampled, sum(sound.frames for sound in sounds), rates.pop() if len(rates) == 1 else 0)
    if length.resampled == 0:
        raise _no_samples(path_spec)
    return length


def read_audio(path_spec: str, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Mono waveform, float32 [N], at `sample_rate` Hz: mean of the channels, soxr "HQ" resampling.

    Raises AudioError: missing file, not audio, truncated, no samples, a segment that is not inside its file, samples
    that are NaN, infinite or absurdly large. The streams of chained Ogg are read one behind the other.
    """
    with _opened(path_spec) as sounds:
        waveforms = [(sound.all(), sound.samplerate) for sound in sounds]
    for waveform, _ in waveforms:
        check_samples(waveform, printable(path_spec))
    resampled = [
        waveform if rate == sample_rate else soxr.resample(waveform, rate, sample_rate, quality="HQ")
        for waveform, rate in waveforms
    ]
    waveform = resampled[0] if len(resampled) == 1 else np.concatenate(resampled)
    if len(waveform) == 0:
        raise _no_samples(path_spec)
    return np.ascontiguousarray(waveform, dtype=np.float32)


def audio_blocks(path_spec: str, sample_rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
    """What `read_audio` gives, in order and in blocks float32 [N] of some seconds: of a file of hours only those are in
    memory, unless its container does not tell its length. Raises AudioError as `read_audio` does."""
    with _opened(path_spec) as sounds:
        for sound in sounds:
            resampler = None
            if sound.samplerate != sample_rate:
                resampler = soxr.ResampleStream(sound.samplerate, sample_rate, 1, dtype="float32", quality="HQ")
            for block in sound.blocks():
                check_samples(block, printable(path_spec))
                if len(block):
                    yield block if resampler is None else resampler.resample_chunk(block)
            if resampler is not None:
                yield resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def check_samples(waveform: np.ndarray, name: str) -> None:
    """AudioError, which begins with `name`, if samples of [N] are NaN, infinite, or so large that features overflow."""
    # comparisons with NaN are false
    if len(waveform) == 0 or (waveform.max() <= _LOUDEST and waveform.min() >= -_LOUDEST):
        return
    remedy = "write the file again or remove its row"
    bad = len(waveform) - int(np.isfinite(waveform).sum())
    if bad:
        raise AudioError(f"{name}: {bad} sample(s) are NaN or infinite; {remedy}")
    loud = np.abs(waveform)
    count = int((loud > _LOUDEST).sum())
    raise AudioError(
        f"{name}: {count} sample(s) are absurdly large (up to {loud.max():.3g}, but full scale is 1); {remedy}"
    )


def resampled_length(num_samples: int, source_rate: int, target_rate: int) -> int:
    """Samples that soxr makes of `num_samples`: the nearest whole number, halves up."""
    return (2 * num_samples * target_rate + source_rate) // (2 * source_rate)


def find_zip_members(zip_path: str) -> Dict[str, str]:
    """Every stored member of a zip as name -> `zip_path:offset:length`, for a manifest's audio column.

    AudioError if a member is compressed: its bytes could not be read in place.
    """
    try:
        with zipfile.ZipFile(zip_path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
        with open(zip_path, "rb") as handle:
            specs = {}
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED:
                    raise AudioError(f"{zip_path}: member {member.filename!r} is compressed; {_REZIP}")
                specs[member.filename] = f"{zip_path}:{_data_offset(handle, member)}:{member.file_size}"
    except AudioError:
        raise
    except Exception as error:  # of a damaged archive zipfile raises anything
        raise AudioError(
            f"{zip_path}: cannot be read as a zip archive ({error}); check the path or copy it again"
        ) from error
    return specs


_REZIP = "make the archive without compression (zip -0) and write the manifest again"


def _data_offset(handle: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes start; its local header knows, the central directory does not."""
    handle.seek(member.header_offset)
    header = handle.read(_LOCAL_HEADER_BYTES)
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return member.header_offset + _LOCAL_HEADER_BYTES + name_length + extra_length


class _Sound:
    """An open stream of samples; decoded at once where its length is not known otherwise."""

    def __init__(self, path_spec: str, handle: BinaryIO, stream: Stream) -> None:
        self.path_spec, self.stream = path_spec, stream
        source: Any = stream.source
        if source is None:
            # the descriptor of a real file: faster than calls into Python, and the name may be no UTF-8
            source = handle if isinstance(handle, io.BytesIO) else handle.fileno()
            (handle.seek if source is handle else lambda offset: os.lseek(source, offset, os.SEEK_SET))(0)
        try:
            self.file = soundfile.SoundFile(source, closefd=False)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise AudioError(_explain_unreadable(path_spec, handle, error)) from error
        self.samplerate, self.channels = self.file.samplerate, self.file.channels
        _check_header(path_spec, self.samplerate, self.channels)
        counted = stream.counted and self.file.frames < _UNKNOWN
        if self.file.format in _LOGGED and "truncated" in self.file.extra_info:
            raise AudioError(f"{printable(path_spec)}: truncated; copy or encode the file again")
        self.decoded = None if counted else self._decode()
        self.frames: int = self.file.frames if self.decoded is None else len(self.decoded)

    def read(self, start: int, end: int) -> np.ndarray:
        """The mean of the channels from sample `start` to before `end`, float32 [end - start]."""
        if self.decoded is not None:
            return self.decoded[start:end]
        skipped = start
        if start and self.file.format in _LOSSLESS:
            self.file.seek(start)
            skipped = 0
        wanted = end - start + skipped
        samples = self._read(wanted)
        if len(samples) < wanted:
            raise AudioError(
                f"{printable(self.path_spec)}: truncated, {len(samples)} of {wanted} samples are there; "
                "copy or encode the file again"
            )
        return _mono(samples[skipped:])

    def all(self) -> np.ndarray:
        return self.read(0, self.frames)

    def close(self) -> None:
        self.file.close()

    def blocks(self) -> Iterator[np.ndarray]:
        """The mean of the channels from the beginning to the end, float32 [N] each."""
        if self.decoded is not None:
            yield self.decoded
            return
        left = self.frames
        while left > 0:
            block = _mono(self._read(min(left, _BLOCK)))
            if not len(block):
                raise AudioError(
                    f"{printable(self.path_spec)}: truncated, {self.frames - left} of {self.frames} samples are there; "
                    "copy or encode the file again"
                )
            left -= len(block)
            yield block

    def _decode(self) -> np.ndarray:
        blocks: List[np.ndarray] = []
        while not blocks or len(blocks[-1]) == _BLOCK:
            blocks.append(_mono(self._read(_BLOCK)))
        samples = np.concatenate(blocks)
        if len(samples) < self.stream.least:
            raise AudioError(
                f"{printable(self.path_spec)}: damaged, {len(samples)} of about {self.stream.least} samples can be "
                "decoded; copy or encode the file again"
            )
        return samples

    def _read(self, count: int) -> np.ndarray:
        try:
            return self.file.read(count, dtype="float32", always_2d=True)
        # numpy raises the latter two where memory is too small for so many samples
        except (soundfile.LibsndfileError, RuntimeError, ValueError, MemoryError) as error:
            raise AudioError(
                f"{printable(self.path_spec)}: cannot be decoded to the end ({error}); copy or encode it again"
            ) from error


class _MediaSound:
    """The audio of a container that libsndfile does not read, with the interface of `_Sound`."""

    def __init__(self, path_spec: str, handle: BinaryIO) -> None:
        self.path_spec = path_spec
        with self._named():
            self.track = media.Track(handle)
        self.samplerate, self.channels, _ = self.track.properties
        _check_header(path_spec, self.samplerate, self.channels)

    @functools.cached_property
    def frames(self) -> int:
        """Containers round it: it is counted."""
        return sum(map(len, self.blocks()))

    def all(self) -> np.ndarray:
        return _joined(self.blocks())

    def blocks(self) -> Iterator[np.ndarray]:
        with self._named():
            for block in self.track.blocks():
                yield _mono(block)

    def close(self) -> None:
        """Nothing is open between calls."""

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except AudioError as error:
            raise AudioError(f"{printable(self.path_spec)}: {error}") from error


class _Segment:
    """Samples of a file's sounds, all of one rate, with the interface of one sound.

    Raises AudioError: not inside the file, or of no single rate. A container that has to be decoded is, as far as the
    segment goes, where its samples or their number are asked for; only then it is known whether it has them.
    """

    def __init__(self, path_spec: str, segment: Tuple[int, int], sounds: "List[Union[_Sound, _MediaSound]]") -> None:
        self.name = f"{printable(path_spec)}:{segment[0]}:{segment[1]}"
        if len({sound.samplerate for sound in sounds}) > 1:
            raise AudioError(
                f"{self.name}: a segment of a file whose sampling rate changes; write the file again with one"
            )
        (self.start, self.length), self.sounds = segment, sounds
        self.samplerate, self.channels = sounds[0].samplerate, sounds[0].channels
        if not isinstance(sounds[0], _MediaSound):
            self._check_inside(sum(sound.frames for sound in sounds))

    def _check_inside(self, total: int) -> None:
        if self.length == 0 or self.start + self.length > total:
            raise AudioError(
                f"{self.name}: the segment is not inside its file, which has {total} samples at {self.samplerate} Hz; "
                "correct offset and length, which count samples, or remove the row"
            )

    @functools.cached_property
    def frames(self) -> int:
        return sum(map(len, self.blocks())) if isinstance(self.sounds[0], _MediaSound) else self.length

    def all(self) -> np.ndarray:
        if len(self.sounds) == 1 and isinstance(self.sounds[0], _Sound):  # which may go there without decoding
            return self.sounds[0].read(self.start, self.start + self.length)
        return _joined(self.blocks())

    def blocks(self) -> Iterator[np.ndarray]:
        """Of some seconds. What comes behind the segment is not decoded."""
        at, end = 0, self.start + self.length
        for block in itertools.chain.from_iterable(sound.blocks() for sound in self.sounds):
            wanted = block[max(0, self.start - at) : max(0, end - at)]
            at += len(block)
            if len(wanted):
                yield wanted
            if at >= end > self.start:
                return
        self._check_inside(at)


_AnySound = Union[_Sound, _MediaSound, _Segment]


def _check_header(path_spec: str, rate: int, channels: int) -> None:
    """AudioError for what no recording of speech has."""
    low, high = _RATES
    if not low <= rate <= high or channels < 1:
        raise AudioError(
            f"{printable(path_spec)}: a sampling rate of {rate} Hz and {channels} channel(s), which no recording of "
            "speech has (a damaged header?); write the file again"
        )


def _joined(blocks: Iterator[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.float32), *blocks])


def _mono(samples: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # check_samples reports it
        return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def _no_samples(path_spec: str) -> AudioError:
    return AudioError(f"{printable(path_spec)}: no samples (empty utterance); remove its row")


def _segment_of(path_spec: str) -> Tuple[str, Optional[Tuple[int, int]]]:
    """The file, and first sample and number of samples of a segment of it."""
    path_spec = os.fspath(path_spec)
    parts = split_segment_spec(path_spec)
    return (parts[0], parts[1:]) if parts else (path_spec, None)


@contextlib.contextmanager
def _opened(path_spec: str) -> Iterator[Sequence[_AnySound]]:
    """Those of a file, or a segment of it as one."""
    path_spec, segment = _segment_of(path_spec)
    with open_bytes(path_spec) as handle, _sounds(path_spec, handle) as sounds:
        yield sounds if segment is None else [_Segment(path_spec, segment, sounds)]


@contextlib.contextmanager
def _sounds(path_spec: str, handle: BinaryIO) -> Iterator[List[Union[_Sound, _MediaSound]]]:
    if media.media_format(handle.read(16)):
        yield [_MediaSound(path_spec, handle)]
        return
    sounds: List[Union[_Sound, _MediaSound]] = []
    try:
        try:
            streams = find_streams(handle)
        except AudioError as error:
            raise AudioError(f"{printable(path_spec)}: {error}") from error
        sounds += (_Sound(path_spec, handle, stream) for stream in streams)
        if not sum(sound.frames for sound in sounds):
            raise _no_samples(path_spec)
        yield sounds
    finally:
        for sound in sounds:
            sound.close()


def open_bytes(path_spec: str) -> BinaryIO:
    """A file, or the bytes of an archive's member, opened for reading. AudioError where they are not there, or in a
    pipe."""
    zip_spec = split_zip_spec(path_spec)
    try:
        handle = open(zip_spec[0] if zip_spec else path_spec, "rb")
        if zip_spec is None:
            return _seekable(path_spec, handle)
        with handle:
            handle.seek(zip_spec[1])
            data = handle.read(zip_spec[2])
    except (OSError, ValueError, OverflowError) as error:  # a zero byte in the name, an offset beyond 64 bits
        reason = getattr(error, "strerror", None) or error
        remedy = "check the path, in a manifest also its root line or audio_root"
        if _ADDRESS.search(path_spec):
            remedy = "it is an address, and audio is read from files: download it first"
        raise AudioError(f"{printable(path_spec)}: cannot be read ({reason}); {remedy}") from error
    if len(data) < zip_spec[2]:
        raise AudioError(
            f"{printable(path_spec)}: the archive ends before this member does; copy it again or rewrite the manifest"
        )
    return io.BytesIO(data)


def _seekable(path_spec: str, handle: BinaryIO) -> BinaryIO:
    if handle.seekable():
        return handle
    handle.close()
    raise AudioError(
        f"{printable(path_spec)}: is a pipe or a device, and audio is read from files: write it to one first"
    )


def _explain_unreadable(path_spec: str, handle: BinaryIO, error: Exception) -> str:
    name = printable(path_spec)
    if handle.seek(0, os.SEEK_END) == 0:
        return f"{name}: the file is empty (0 bytes); copy it again or remove its row"
    handle.seek(0)
    foreign = foreign_format(handle.read(16))
    what = f"it is {foreign}" if foreign else getattr(error, "error_string", error)
    reason = f"{name}: not audio that can be read ({what})"
    if split_zip_spec(path_spec) is None:
        accepted = "accepted are wav, flac, ogg, opus, mp3, and with PyAV or ffmpeg m4a, mp4, webm and their kin"
        return f"{reason}; {accepted}: convert it, or copy it again if it is one of them"
    return reason + explain_member(path_spec, "is no wav, flac, ogg, opus or mp3 file")


def explain_member(path_spec: str, otherwise: str) -> str:
    """Why the bytes `archive.zip:offset:length` cannot be read, to follow a message; "" for other paths.

    otherwise: what is wrong with a member that the archive does have there.
    """
    zip_spec = split_zip_spec(path_spec)
    if zip_spec is None:
        return ""
    zip_path, offset, length = zip_spec
    try:
        with zipfile.ZipFile(zip_path) as archive, open(zip_path, "rb") as raw:
            member = next((m for m in archive.infolist() if _data_offset(raw, m) == offset), None)
    except Exception:  # noqa: BLE001 - of a damaged archive zipfile raises anything
        return f"; {printable(zip_path)} is not a readable zip archive: copy it again"
    if member is None or member.compress_size != length:
        return "; no member of the archive lies there: write the manifest again from this archive"
    if member.compress_type != zipfile.ZIP_STORED:
        return f"; the member {member.filename!r} is compressed: {_REZIP}"
    return f"; the member {member.filename!r} {otherwise}"
