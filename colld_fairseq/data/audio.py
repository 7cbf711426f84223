"""Audio of any format libsndfile reads (wav, flac, ogg, opus, mp3, ...) as 16 kHz mono float32.

A path is a file or ``archive.zip:offset:length``, the bytes of an uncompressed ("stored") zip member. Nothing
is repaired silently: a truncated file, NaN samples or an empty clip raise AudioError, which names the path
and the remedy.
"""

import io
import os
import re
import struct
import zipfile
from typing import BinaryIO, Dict, NamedTuple, Optional, Tuple

import numpy as np
import soundfile
import soxr

from colld_fairseq.errors import AudioError

SAMPLE_RATE = 16000
AUDIO_SUFFIXES = (
    ".wav",
    ".flac",
    ".ogg",
    ".opus",
    ".mp3",
)  # of folders and archives; a named file may have any
_ZIP_SPEC = re.compile(r"(?P<zip>.+\.zip):(?P<offset>\d+):(?P<length>\d+)", re.IGNORECASE | re.DOTALL)
_LOCAL_HEADER_BYTES = 30  # fixed part of a zip member's local header
_OGG_PAGE_MAX = 27 + 255 + 255 * 255
# seeking in these gives exactly the samples of a full decode
_LOSSLESS = ("WAV", "WAVEX", "FLAC", "AIFF", "RF64")


class AudioInfo(NamedTuple):
    """What the header says: samples after resampling, the file's own rate in Hz, its channels."""

    num_samples: int
    sample_rate: int
    channels: int


def split_zip_spec(path_spec: str) -> Optional[Tuple[str, int, int]]:
    """``archive.zip:offset:length`` as its three parts, or None for a plain file (colons included)."""
    match = _ZIP_SPEC.fullmatch(path_spec)
    return match and (match["zip"], int(match["offset"]), int(match["length"]))


def audio_info(path_spec: str, sample_rate: int = SAMPLE_RATE) -> AudioInfo:
    """Length, rate and channels from the header, without decoding. AudioError as in :func:`read_audio`."""
    with _open_bytes(path_spec) as handle, _open_sound(path_spec, handle) as sound:
        return AudioInfo(
            resampled_length(sound.frames, sound.samplerate, sample_rate), sound.samplerate, sound.channels
        )


def read_audio(
    path_spec: str, sample_rate: int = SAMPLE_RATE, start: int = 0, frames: Optional[int] = None
) -> np.ndarray:
    """Mono waveform, float32 [N], at ``sample_rate`` Hz: mean of the channels, soxr "HQ" resampling.

    ``start`` and ``frames`` select a segment, in samples at ``sample_rate``; the samples equal a slice of the
    whole clip. Raises AudioError: missing file, not audio, truncated, no samples (in the segment), NaN or
    infinite samples.
    """
    with _open_bytes(path_spec) as handle, _open_sound(path_spec, handle) as sound:
        native_rate = sound.samplerate
        seekable = native_rate == sample_rate and sound.format in _LOSSLESS
        expected = sound.frames
        if seekable and (start or frames is not None):
            start = min(start, sound.frames)
            sound.seek(start)
            expected = sound.frames - start if frames is None else min(frames, sound.frames - start)
            start, frames = 0, None
        try:
            samples = sound.read(expected, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise AudioError(f"{path_spec}: cannot be decoded to the end ({error}); copy or encode it again") from error
    if len(samples) < expected:
        raise AudioError(
            f"{path_spec}: truncated, {len(samples)} of {expected} samples are there; copy or encode the file again"
        )
    waveform = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if not np.isfinite(waveform).all():
        bad = int(len(waveform) - np.isfinite(waveform).sum())
        raise AudioError(f"{path_spec}: {bad} sample(s) are NaN or infinite; write the file again or remove its row")
    if native_rate != sample_rate and len(waveform):
        waveform = soxr.resample(waveform, native_rate, sample_rate, quality="HQ")
    if start or frames is not None:
        waveform = waveform[start : None if frames is None else start + frames]
    if len(waveform) == 0:
        raise AudioError(f"{path_spec}: no samples (empty clip, or a segment behind its end); remove its row")
    return np.ascontiguousarray(waveform, dtype=np.float32)


def resampled_length(num_samples: int, source_rate: int, target_rate: int) -> int:
    """Samples that soxr makes of ``num_samples``: the nearest whole number, halves up."""
    return (2 * num_samples * target_rate + source_rate) // (2 * source_rate)


def find_zip_members(zip_path: str) -> Dict[str, str]:
    """Every stored member of a zip as name -> ``zip_path:offset:length``, for a manifest's audio column.

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
    except (OSError, zipfile.BadZipFile) as error:
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


def _open_bytes(path_spec: str) -> BinaryIO:
    zip_spec = split_zip_spec(path_spec)
    path = zip_spec[0] if zip_spec else path_spec
    try:
        if zip_spec is None:
            return open(path, "rb")
        with open(path, "rb") as handle:
            handle.seek(zip_spec[1])
            data = handle.read(zip_spec[2])
    except OSError as error:
        raise AudioError(
            f"{path_spec}: cannot be read ({error.strerror}); check the manifest's root line or audio_root"
        ) from error
    if len(data) < zip_spec[2]:
        raise AudioError(
            f"{path_spec}: the archive ends before this member does; copy it again or rewrite the manifest"
        )
    return io.BytesIO(data)


def _open_sound(path_spec: str, handle: BinaryIO) -> soundfile.SoundFile:
    # libsndfile shortens truncated wav and ogg clips without a word: look at these two before it opens them
    is_truncated = {b"RIFF": _wav_is_truncated, b"RIFX": _wav_is_truncated, b"OggS": _ogg_is_truncated}
    check = is_truncated.get(handle.read(4))
    if check and check(handle):
        raise AudioError(f"{path_spec}: truncated, the file ends before its audio does; copy or encode the file again")
    handle.seek(0)
    try:
        # by path where there is one: libsndfile's own file access is faster than callbacks into Python
        sound = soundfile.SoundFile(handle if split_zip_spec(path_spec) else path_spec)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(_explain_unreadable(path_spec, handle, error)) from error
    if sound.frames == 0:
        sound.close()
        raise AudioError(f"{path_spec}: no samples (empty clip); remove its row")
    return sound


def _explain_unreadable(path_spec: str, handle: BinaryIO, error: Exception) -> str:
    if handle.seek(0, os.SEEK_END) == 0:
        return f"{path_spec}: the file is empty (0 bytes); copy it again or remove its row"
    reason = f"{path_spec}: not audio that can be read ({getattr(error, 'error_string', error)})"
    zip_spec = split_zip_spec(path_spec)
    if zip_spec is None:
        return f"{reason}; accepted are wav, flac, ogg, opus and mp3: truncated files must be copied again"
    zip_path, offset, length = zip_spec
    try:
        with zipfile.ZipFile(zip_path) as archive, open(zip_path, "rb") as raw:
            member = next((m for m in archive.infolist() if _data_offset(raw, m) == offset), None)
    except (OSError, zipfile.BadZipFile, struct.error):
        return f"{reason}; {zip_path} is not a readable zip archive: copy it again"
    if member is None or member.compress_size != length:
        return f"{reason}; no member of the archive lies there: write the manifest again from this archive"
    if member.compress_type != zipfile.ZIP_STORED:
        return f"{reason}; the member {member.filename!r} is compressed: {_REZIP}"
    return f"{reason}; the member {member.filename!r} is no wav, flac, ogg, opus or mp3 file"


def _wav_is_truncated(handle: BinaryIO) -> bool:
    """True if the data chunk is missing or longer than the file."""
    size = handle.seek(0, os.SEEK_END)
    handle.seek(0)
    riff = handle.read(12)
    order = ">" if riff[:4] == b"RIFX" else "<"
    while riff[8:] == b"WAVE" and len(header := handle.read(8)) == 8:
        name, length = struct.unpack(f"{order}4sI", header)
        if name == b"data":
            # 0 and 2^32-1 (and what ffmpeg writes to a pipe) mean "until the end of the file"
            return length < 0xFFFFF000 and handle.tell() + length > size
        handle.seek(length + length % 2, os.SEEK_CUR)
    return riff[8:] == b"WAVE"  # ends before its data; other RIFF files are no audio, as libsndfile will say


def _ogg_is_truncated(handle: BinaryIO) -> bool:
    """True if the last page is incomplete."""
    size = handle.seek(0, os.SEEK_END)
    handle.seek(max(0, size - _OGG_PAGE_MAX - 27))
    tail = handle.read()
    page = tail.rfind(b"OggS\0")
    segments = tail[page + 26] if 0 <= page < len(tail) - 26 else None
    if segments is None:
        return True
    return page + 27 + segments + sum(tail[page + 27 : page + 27 + segments]) > len(tail)
