"""Containers of chunks with a name and a length (wav, RF64, W64, AIFF, CAF), and headers with a length (AU, SPHERE)."""

import io
import os
import re
import struct
from typing import BinaryIO, NamedTuple, Optional, Tuple

from colld_fairseq.data.containers.stream import TAGS, Stream, truncated
from colld_fairseq.errors import AudioError


class _Chunks(NamedTuple):
    """How a container writes its chunks."""

    first: int  # where the first one begins
    name: int  # bytes of a name
    length: str  # struct of a length
    audio: bytes  # what the name of the chunk with the audio begins with
    align: int = 2
    inclusive: bool = False  # whether a length counts name and length

    def head(self, handle: BinaryIO, at: int) -> Tuple[bytes, int, int]:
        """Name, first byte of the content and end of a chunk."""
        handle.seek(at)
        head, start = handle.read(self.head_bytes), at + self.head_bytes
        (length,) = struct.unpack(self.length, head[self.name :])
        return head[: self.name], start, (at if self.inclusive else start) + length

    @property
    def head_bytes(self) -> int:
        return self.name + struct.calcsize(self.length)


CHUNKED = (
    (rb"RIFF....WAVE", _Chunks(12, 4, "<I", b"data")),
    (rb"RIFX....WAVE", _Chunks(12, 4, ">I", b"data")),
    (rb"RF64....WAVE", _Chunks(12, 4, "<I", b"data")),
    (rb"FORM....AIF[FC]", _Chunks(12, 4, ">I", b"SSND")),
    (rb"FORM....(8SVX|16SV)", _Chunks(12, 4, ">I", b"BODY")),
    (rb"riff\x2e\x91\xcf\x11", _Chunks(40, 16, "<q", b"data", align=8, inclusive=True)),  # W64
    (rb"caff", _Chunks(8, 4, ">q", b"data", align=1)),
)
_FILES = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"riff", b"caff", b".snd", b"data", b"SSND", b"BODY")
# what programs write that do not know the length (yet): sox, arecord, ffmpeg, recorders that were never stopped
_UNKNOWN_LENGTHS = (0x7F000000, 0x7FFFF000, 0x7FFFFFFF, 0x80000000)
_UNKNOWN_MARGIN = 256  # bytes of a header, which some add or subtract


def _is_unknown(length: int) -> bool:
    if any(abs(length - known) <= _UNKNOWN_MARGIN for known in _UNKNOWN_LENGTHS):
        return True
    return length < 0 or 0xFFFFF000 <= length <= 0xFFFFFFFF or length >= 1 << 62


def chunked_stream(handle: BinaryIO, layout: _Chunks) -> Stream:
    size = handle.seek(0, os.SEEK_END)
    at, long_length = layout.first, None
    while at + layout.head_bytes <= size:
        name, start, end = layout.head(handle, at)
        if name.startswith(layout.audio):
            field, kind = at + layout.name, layout.length
            if long_length and end - start == 0xFFFFFFFF:
                field, kind = long_length, "<q"
                handle.seek(field)
                end = start + struct.unpack(kind, handle.read(8))[0]
            return _audio_chunk(handle, layout, start, end, field, kind)
        if name == b"ds64" and end - start >= 16:  # of RF64: the lengths of file and audio in 64 bits
            long_length = start + 8
        if end < start or not _is_name(name):
            return Stream()
        at = end + -end % layout.align
    raise truncated()


def _audio_chunk(handle: BinaryIO, layout: _Chunks, start: int, end: int, field: int, kind: str) -> Stream:
    """The stream of samples from `start` to `end`, a length that is written at `field` as struct `kind`."""
    size = handle.seek(0, os.SEEK_END)
    if start == size:
        return Stream()
    if _is_unknown(end - start) or (end <= start and not _is_padding(handle, layout, start, size)):
        return _mended(handle, field, kind, size - (field - layout.name if layout.inclusive else start))
    if end > size:
        raise truncated()
    if not (_is_padding(handle, layout, end + -end % layout.align, size) or _is_padding(handle, layout, end, size)):
        raise _more_than_promised(end - start, size - end)
    if layout.inclusive and end < size:  # libsndfile reads W64 to the end of the file
        handle.seek(0)
        return Stream(io.BytesIO(handle.read(end)))
    return Stream()


def _more_than_promised(promised: int, more: int) -> AudioError:
    return AudioError(
        f"{more} bytes follow the {promised} bytes of audio that the header promises (several files in one, or a wrong "
        "header); write the file again"
    )


def _mended(handle: BinaryIO, field: int, kind: str, length: int) -> Stream:
    """The file with its length in the header."""
    handle.seek(0)
    content = bytearray(handle.read())
    struct.pack_into(kind, content, field, min(length, 0xFFFFFFFF) if kind.endswith("I") else length)
    return Stream(io.BytesIO(content))


def _is_name(name: bytes) -> bool:
    return all(32 <= letter < 127 for letter in name[:4])


def _is_padding(handle: BinaryIO, layout: Optional[_Chunks], at: int, size: int) -> bool:
    """Whether nothing but further chunks, tags and zeros follows: no more audio."""
    while layout and at + layout.head_bytes <= size:
        name, start, end = layout.head(handle, at)
        if not _is_name(name) or name.startswith(_FILES) or not start <= end <= size:
            break
        at = min(size, end + -end % layout.align)
    handle.seek(at)
    rest = handle.read()
    return len(rest) < 8 or rest.startswith(TAGS) or not rest.strip(b"\0")


def au_stream(handle: BinaryIO, kind: str) -> Stream:
    size = handle.seek(0, os.SEEK_END)
    if size < 12:
        raise truncated()
    handle.seek(4)
    start, length = (struct.unpack(kind, handle.read(4))[0] for _ in range(2))
    if start >= size:
        return Stream()
    if length == 0 or _is_unknown(length):
        return _mended(handle, 8, kind, size - start)
    return _counted(handle, start, length, size)


def sphere_stream(handle: BinaryIO) -> Stream:
    header = handle.read(1024)
    fields = dict(re.findall(rb"^(\w+) -i (\d+)", header, re.MULTILINE))
    start = int(header[8:16]) if header[8:16].strip().isdigit() else 1024
    names = (b"sample_count", b"channel_count", b"sample_n_bytes")
    if all(name in fields for name in names):
        samples, channels, width = (int(fields[name]) for name in names)
        return _counted(handle, start, samples * channels * width, handle.seek(0, os.SEEK_END))
    return Stream()


def _counted(handle: BinaryIO, start: int, length: int, size: int) -> Stream:
    """The stream of `length` bytes from `start` on, behind which there may be tags only."""
    if start + length > size:
        raise truncated()
    if not _is_padding(handle, None, start + length, size):
        raise _more_than_promised(length, size - start - length)
    return Stream()
