"""FLAC: whether its last frame ends where its header says."""

import io
import struct
from functools import lru_cache
from typing import List, Optional

from colld_fairseq.data.containers.stream import Stream, truncated, without_tags
from colld_fairseq.errors import AudioError

_FLAC_HEADER_MAX = 16  # bytes of a frame's header
_FLAC_FRAME_MAX = 1 << 20  # where the header does not say


def flac_stream(data: bytes, start: int) -> Stream:
    if any(data.find(b"fLaC" + last + b"\0\0\x22", start + 4) >= 0 for last in (b"\0", b"\x80")):
        raise AudioError("several flac files in one, of which the first would be read; write a file of each")
    info = data[start + 8 : start + 42]
    if len(info) < 34:
        raise truncated()
    field = start + 18  # the last 36 of these 64 bits are the number of samples, 0 if it was not known
    (bits,) = struct.unpack_from(">Q", data, field)
    promised = bits & (1 << 36) - 1
    content = without_tags(data)
    headers = _flac_headers(content, info)
    end, at = next(headers, (None, 0))
    if promised and end == promised:
        return Stream()
    while end is not None and _crc(content[at:-2], 16, 0x8005) != int.from_bytes(content[-2:], "big"):
        end, at = next(headers, (None, 0))
    if end is None or end < promised:
        raise truncated()
    mended = bytearray(data)
    struct.pack_into(">Q", mended, field, bits - promised + end)
    return Stream(io.BytesIO(mended))


def _flac_headers(data: bytes, info: bytes):
    """The headers of frames in the last bytes, backwards: (index of the sample behind the frame, its first byte)."""
    block, longest = int.from_bytes(info[2:4], "big"), int.from_bytes(info[7:10], "big") or _FLAC_FRAME_MAX
    first = max(0, len(data) - longest - _FLAC_HEADER_MAX)
    at = len(data)
    while (at := data.rfind(b"\xff", first, at)) >= 0:
        end = _flac_frame_end(data[at : at + _FLAC_HEADER_MAX], block)
        if end is not None:
            yield end, at


def _flac_frame_end(header: bytes, fixed_block: int) -> Optional[int]:
    """The index of the sample behind a frame, None where these bytes are no header of one."""
    if len(header) < 6 or header[1] & 0xFE != 0xF8 or header[2] >> 4 == 0 or header[3] & 1:
        return None
    code, rate = header[2] >> 4, header[2] & 15
    extra = max(0, 8 - (header[4] ^ 0xFF).bit_length())  # ones at the front: bytes of the index, as in UTF-8
    if extra == 1 or extra > 7 or rate == 15:
        return None
    size = 4 + max(1, extra)
    index = header[4] & (0x7F >> extra if extra else 0x7F)  # of the frame, or of its first sample
    for byte in header[5:size]:
        index = index << 6 | byte & 0x3F
    if code in (6, 7):
        samples = int.from_bytes(header[size : size + code - 5], "big") + 1
        size += code - 5
    else:
        samples = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    size += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if len(header) <= size or _crc(header[:size], 8, 0x07) != header[size]:
        return None
    return (index if header[1] & 1 else index * fixed_block) + samples


@lru_cache
def _crc_table(width: int, polynomial: int) -> List[int]:
    top, mask, table = 1 << width - 1, (1 << width) - 1, []
    for byte in range(256):
        value = byte << width - 8
        for _ in range(8):
            value = value << 1 ^ polynomial * bool(value & top)
        table.append(value & mask)
    return table


def _crc(data: bytes, width: int, polynomial: int) -> int:
    table, mask, value = _crc_table(width, polynomial), (1 << width) - 1, 0
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> width - 8 ^ byte]
    return value
