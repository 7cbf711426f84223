"""Audio tracks in containers that libsndfile does not read (m4a, mp4, webm, mkv, wma, amr, ...), a block at a time.

PyAV decodes them where it is installed (extra [media]), else the program ffmpeg where it is on the path.
"""

import contextlib
import importlib.util
import io
import os
import re
import shutil
import struct
import subprocess
import tempfile
from typing import BinaryIO, Iterator, List, NamedTuple, Optional

import numpy as np

from colld_fairseq.errors import AudioError

SUFFIXES = (".m4a", ".mp4", ".webm", ".mkv", ".mka", ".mov", ".3gp", ".aac", ".wma", ".amr", ".avi")
INSTALL = 'pip install "colld_fairseq[media]", or install ffmpeg'

_FORMATS = {
    b"....ftyp": "MP4 (m4a)",
    b"\0...(moov|wide|free)": "QuickTime",
    b"....mdat": "QuickTime",
    b"\x1aE\xdf\xa3": "WebM or Matroska",
    b"#!AMR": "AMR",
    b"0&\xb2u": "WMA",
    rb"\xff[\xf0\xf1\xf8\xf9]": "AAC",
    b"RIFF....AVI ": "AVI",
    b"FLV\x01": "Flash video",
    b"\0\0\x01\xba": "an MPEG program stream",
}
_BUFFER = 1 << 20  # bytes
_SHORT_SECONDS = 0.5  # tracks may end so much before what their container says: it rounds to packets, and pads


def media_format(start: bytes) -> Optional[str]:
    """The container whose first 16 bytes these are; None for what is none of those meant here."""
    return next((name for magic, name in _FORMATS.items() if re.match(magic, start, re.DOTALL)), None)


class Properties(NamedTuple):
    """Rate in Hz; channels; length in seconds as the container says it, None where it does not of the track alone."""

    sample_rate: int
    channels: int
    seconds: Optional[float]


class Track:
    """The first audio track of a file.

    Raises AudioError, without the file's name, where neither decoder is installed, there is no audio track, or the file
    is damaged.
    """

    def __init__(self, handle: BinaryIO) -> None:
        if importlib.util.find_spec("av") is not None:
            self._decoder = _PyAV(handle)
        elif shutil.which("ffmpeg"):
            self._decoder = _Ffmpeg(handle)
        else:
            raise AudioError(f"PyAV or ffmpeg are needed to read it, and neither is installed here: {INSTALL}")
        self.properties: Properties = self._decoder.properties()

    def blocks(self) -> Iterator[np.ndarray]:
        """Samples float32 [N, channels] from the beginning to the end."""
        samples, rate = 0, self.properties.sample_rate
        for block in self._decoder.blocks():
            samples += len(block)
            yield block
        expected = self.properties.seconds
        if expected is not None and samples / rate < expected - _SHORT_SECONDS:
            raise AudioError(
                f"truncated, {samples / rate:.2f} of {expected:.2f} s can be decoded; copy or encode the file again"
            )


class _PyAV:
    """PyAV. It reads the open file itself, whose name may be no UTF-8."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle = handle

    def properties(self) -> Properties:
        with self._opened() as (container, stream):
            rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
            return Properties(rate, channels, _seconds(container, stream))

    def blocks(self) -> Iterator[np.ndarray]:
        import av

        with self._opened() as (container, stream):
            convert = av.AudioResampler(format="flt")
            frames, waiting = container.decode(stream), []  # type: ignore[var-annotated]
            for frame in frames:
                waiting += [_samples(part) for part in convert.resample(frame)]
                if sum(map(len, waiting)) >= _BUFFER // 4:
                    yield np.concatenate(waiting)
                    waiting = []
            waiting += [_samples(part) for part in convert.resample(None)]
            if waiting:
                yield np.concatenate(waiting)

    @contextlib.contextmanager
    def _opened(self):
        import av

        self.handle.seek(0)
        try:
            with av.open(self.handle, buffer_size=_BUFFER, metadata_errors="replace") as container:
                if not container.streams.audio:
                    raise AudioError("no audio track is in it; remove its row")
                yield container, container.streams.audio[0]
        except AudioError:
            raise
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise AudioError(f"cannot be decoded to the end ({reason}); copy or encode the file again") from error


def _samples(frame) -> np.ndarray:
    """[N, channels] of a frame in packed floats."""
    return frame.to_ndarray().reshape(frame.samples, -1)


def _seconds(container, stream) -> Optional[float]:
    """Of the track; that of a file with one track is its own. Matroska has it as a tag that most programs write."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if tag := _clock(stream.metadata.get("DURATION", "")):
        return tag
    one = len(container.streams) == 1 and container.duration is not None
    return container.duration / 1e6 if one else None


def _clock(text: str) -> Optional[float]:
    """Seconds of `00:01:02.5`."""
    match = re.match(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text)
    return 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3]) if match else None


class _Ffmpeg:
    """The program ffmpeg: its output is AU, whose header says rate and channels."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle = handle

    def properties(self) -> Properties:
        with self._running() as (process, log):
            rate, channels = _au_header(process.stdout)
            if not channels:
                process.wait()
                raise _failed(log)
            said = _said(log).split("Stream mapping:")[0]
            duration = _clock(said.partition("Duration: ")[2]) if said.count("Stream #0:") == 1 else None
            return Properties(rate, channels, duration)

    def blocks(self) -> Iterator[np.ndarray]:
        with self._running() as (process, log):
            _, channels = _au_header(process.stdout)
            size = 4 * max(1, channels)
            while data := process.stdout.read(_BUFFER // size * size):
                yield np.frombuffer(data[: len(data) // size * size], ">f4").astype(np.float32).reshape(-1, channels)
            if process.wait():
                raise _failed(log)

    @contextlib.contextmanager
    def _running(self):
        """The process, and the file of its messages; it is ended in any case."""
        with _on_disk(self.handle) as path, tempfile.TemporaryFile() as log:
            command = ["ffmpeg", "-nostdin", "-hide_banner", "-nostats", "-xerror", "-i", f"file:{path}"]
            command += ["-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
            try:
                yield process, log
            finally:
                process.kill()
                process.stdout.close()  # type: ignore[union-attr]
                process.wait()


@contextlib.contextmanager
def _on_disk(handle: BinaryIO) -> Iterator[str]:
    """The path of a file; bytes of an archive's member get one of their own."""
    if not isinstance(handle, io.BytesIO):
        yield os.fspath(handle.name)
        return
    with tempfile.NamedTemporaryFile() as copy:
        copy.write(handle.getbuffer())
        copy.flush()
        yield copy.name


def _au_header(output: BinaryIO) -> "tuple[int, int]":
    """Rate and channels; 0, 0 where nothing came."""
    header = output.read(24)
    if len(header) < 24:
        return 0, 0
    _, offset, _, _, rate, channels = struct.unpack(">4s5I", header)
    output.read(offset - 24)
    return rate, channels


def _said(log: BinaryIO) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")


def _failed(log: BinaryIO) -> AudioError:
    said: List[str] = _said(log).strip().splitlines()
    if any("matches no streams" in line for line in said):
        return AudioError("no audio track is in it; remove its row")
    return AudioError(
        f"cannot be decoded to the end (ffmpeg: {said[-1] if said else 'no output'}); copy or encode the file again"
    )
