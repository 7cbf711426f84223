"""What libsndfile does not tell of an audio file: whether it is there to its end, and what comes behind that.

libsndfile shortens truncated files of most containers without a word, reads the first of several streams, estimates
the length of an mp3, and believes a length that a recorder could not know yet. `find_streams` looks at the bytes
beside it. Formats: EA IFF 85 and its kin (wav, RF64, W64, AIFF, CAF), Sun's AU, NIST SPHERE, RFC 3533 (Ogg), RFC 9639
(FLAC), ISO 11172-3 with the Xing, Info and VBRI headers of encoders (mp3).
"""

import re
from typing import BinaryIO, List, Optional

from colld_fairseq.data.containers.chunks import CHUNKED, au_stream, chunked_stream, sphere_stream
from colld_fairseq.data.containers.flac import flac_stream
from colld_fairseq.data.containers.mpeg import FRAME_MAX, SURE_FRAMES, first_mpeg_frame, mpeg_frame, mpeg_stream
from colld_fairseq.data.containers.ogg import ogg_streams
from colld_fairseq.data.containers.stream import Stream, after_id3

_FOREIGN = {
    rb"\s*<": "a web page or another text",
    rb"\s*\{": "a text (JSON)",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip",
    b"\x93NUMPY": "a NumPy array",
    rb"[\t\r\n -~]{16}": "a text",
}


def find_streams(handle: BinaryIO) -> List[Stream]:
    """The streams of an audio file in order; most often one. AudioError, without the file's name, where the file ends
    before its audio does, or holds what would not be read along. Containers it does not know are left to libsndfile."""
    handle.seek(0)
    magic = handle.read(16)
    for pattern, layout in CHUNKED:
        if re.match(pattern, magic, re.DOTALL):
            return [chunked_stream(handle, layout)]
    if magic.startswith((b".snd", b"dns.")):
        return [au_stream(handle, ">I" if magic.startswith(b".snd") else "<I")]
    handle.seek(0)
    if magic.startswith(b"NIST_1A"):
        return [sphere_stream(handle)]
    if magic.startswith(b"OggS"):
        return ogg_streams(handle.read())
    if magic.startswith((b"ID3", b"fLaC")) or mpeg_frame(magic[:4]):
        data = handle.read()
        start = after_id3(data)
        return [flac_stream(data, start) if data.startswith(b"fLaC", start) else mpeg_stream(data, start)]
    if foreign_format(magic) is None:  # a recording of a broadcast may begin in the middle of an mp3 frame
        data = handle.read(FRAME_MAX * (SURE_FRAMES + 1))
        if first_mpeg_frame(data, 0) is not None:
            return [mpeg_stream(data + handle.read(), 0)]
    return [Stream()]


def foreign_format(start: bytes) -> Optional[str]:
    """The format of a file whose first bytes show that it is not wav, flac, ogg, opus or mp3; None if they do not."""
    return next((name for magic, name in _FOREIGN.items() if re.match(magic, start, re.DOTALL)), None)
