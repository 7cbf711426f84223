"""mp3 (and mp2, mp1): frame by frame, where no header gives its length."""

import io
import os
import re
from functools import lru_cache
from typing import Optional, Tuple

from colld_fairseq.data.containers.stream import TAGS, Stream, after_tag, truncated
from colld_fairseq.errors import AudioError

FRAME_MAX = 2881  # bytes
_MPEG_RATES = (44100, 48000, 32000)
_MPEG_KBITS = {  # (MPEG 1, layer) -> kilobits per second of the codes from 1 on
    (True, 1): range(32, 449, 32),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
SURE_FRAMES = 4  # so many headers in the right distances are no coincidence
_LOST_FRAMES = 10  # whose bits lie in frames before the first one of a file that was cut out of a longer one


@lru_cache(4096)
def mpeg_frame(header: bytes) -> Optional[Tuple[int, int]]:
    """(bytes, samples) of the mp3 (mp2, mp1) frame that begins with these 4 bytes; None where none does."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    code, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or code in (0, 15) or rate == 3:
        return None
    first = version == 3
    bits = 1000 * _MPEG_KBITS[first, layer if first else min(layer, 2)][code - 1]
    hertz = _MPEG_RATES[rate] >> (0 if first else 1 if version == 2 else 2)
    padding = header[2] >> 1 & 1
    if layer == 1:
        return (12 * bits // hertz + padding) * 4, 384
    samples = 576 if layer == 3 and not first else 1152
    return samples // 8 * bits // hertz + padding, samples


def _same_kind(one: bytes, other: bytes) -> bool:
    """Whether two headers are of the same version, layer and sampling rate."""
    return one[1] & 0xFE == other[1] & 0xFE and one[2] & 0x0C == other[2] & 0x0C


def first_mpeg_frame(data: bytes, at: int) -> Optional[int]:
    """Where the first frame is that others follow."""
    while (at := data.find(b"\xff", at)) >= 0:
        behind, kind = at, data[at : at + 4]
        for _ in range(SURE_FRAMES):
            frame = mpeg_frame(data[behind : behind + 4])
            if frame is None or not _same_kind(kind, data[behind : behind + 4]):
                break
            behind += frame[0]
            if behind >= len(data) or data.startswith(TAGS, behind):
                return at
        else:
            return at
        at += 1
    return None


def mpeg_stream(data: bytes, start: int) -> Stream:
    first = first_mpeg_frame(data, start)
    if first is None:  # of a free bitrate, or none at all
        return Stream(_Endless(data), counted=False)
    frame = mpeg_frame(data[first : first + 4])
    assert frame is not None  # others follow it
    head_bytes, samples = frame
    head = data[first : first + head_bytes]
    promised, promised_bytes = _length_header(head)
    size = len(data) - first
    if promised and promised_bytes in (size, size - 128):  # without or with an ID3v1 tag
        return Stream()
    frames = _count_mpeg_frames(data, first)
    if promised is not None:  # the frame that holds this header has no audio
        frames -= 1
    if promised and frames == promised:
        return Stream()
    if promised and frames < promised:
        raise truncated(f"{frames} of {promised} mp3 frames are there")
    content = data[first + (head_bytes if promised is not None else 0) :]
    return Stream(_Endless(content), counted=False, least=max(1, frames - _LOST_FRAMES) * samples)


def _length_header(frame: bytes) -> Tuple[Optional[int], int]:
    """(frames, bytes) that the header of an encoder in the first frame promises, 0 where it leaves one out; None for
    the frames where there is no such header."""
    match = re.match(rb".{13,40}?(Xing|Info)(....)(....)(....)", frame, re.DOTALL)
    if match:
        flags, *lengths = (int.from_bytes(part, "big") for part in match.groups()[1:])
        frames = lengths.pop(0) if flags & 1 else 0
        return frames, lengths.pop(0) if flags & 2 else 0
    return (0, 0) if frame[36:40] == b"VBRI" else (None, 0)


def _count_mpeg_frames(data: bytes, first: int) -> int:
    """Frames from the byte `first` on. Raises AudioError: bytes that belong to none between them, a truncated one."""
    kind, at, count = data[first : first + 4], first, 0
    while at < len(data):
        header = data[at : at + 4]
        frame = mpeg_frame(header)
        if frame and _same_kind(kind, header):
            if at + frame[0] > len(data):
                raise truncated("its last mp3 frame is incomplete")
            at += frame[0]
            count += 1
            continue
        behind = after_tag(data, at)
        if behind == at:
            if not data[at:].strip(b"\0") or len(data) - at < 4:
                break
            if first_mpeg_frame(data, at) is None and len(data) - at <= FRAME_MAX:
                break
            raise AudioError(f"damaged: what follows its mp3 frame {count} is none; copy or encode the file again")
        at = behind
    return count


class _Endless(io.BytesIO):
    """Bytes that claim to have no end: libsndfile reads as many samples of an mp3 as mpg123 estimates from its size."""

    _SIZE = 1 << 50
    _at_end = False

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at_end = whence == os.SEEK_END
        return self._SIZE + offset if self._at_end else super().seek(offset, whence)

    def tell(self) -> int:
        return self._SIZE if self._at_end else super().tell()

    def readinto(self, buffer) -> int:
        if not self._at_end:
            return super().readinto(buffer)
        buffer[:] = bytes(len(buffer))  # where a tag is looked for
        return len(buffer)
