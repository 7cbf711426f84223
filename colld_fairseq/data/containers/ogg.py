"""Ogg: pages of one stream, of several beside each other (multiplexed), or one behind the other (chained)."""

import io
import struct
from typing import Dict, List, Optional, Sequence

from colld_fairseq.data.containers.stream import TAGS, Stream, truncated
from colld_fairseq.errors import AudioError

_OGG_PAGE = struct.Struct("<4sBBqIIIB")
_OGG_FIRST, _OGG_LAST = 2, 4  # flags of a page
_OGG_AUDIO = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")


class _Logical:
    """A logical stream: its pages so far."""

    def __init__(self, first: bytes) -> None:
        content = first[_OGG_PAGE.size + first[_OGG_PAGE.size - 1] :]
        self.is_audio = content.startswith(_OGG_AUDIO)
        self.pages: List[bytes] = []
        self.page_index: Optional[int] = None
        self.ended = False


def ogg_streams(data: bytes) -> List[Stream]:
    links: List[Dict[int, _Logical]] = []  # of the chain; streams of a link are multiplexed
    at, starting = 0, False
    while at < len(data):
        if data[at : at + 4] != b"OggS":
            if data.find(b"OggS", at) < 0 and (data.startswith(TAGS, at) or not data[at:].strip(b"\0")):
                break
            raise truncated("what follows its first pages is no Ogg page")
        segments = at + _OGG_PAGE.size
        if segments > len(data):
            raise truncated()
        _, _, flags, _, serial, index, _, count = _OGG_PAGE.unpack_from(data, at)
        end = segments + count + sum(data[segments : segments + count])
        if end > len(data):
            raise truncated()
        page, at = data[at:end], end
        if flags & _OGG_FIRST:
            if not starting:
                links.append({})
            links[-1][serial] = _Logical(page)
        starting = bool(flags & _OGG_FIRST)
        stream = links[-1].get(serial) if links else None
        if stream is None:
            raise truncated("the first page of its stream is missing")
        if stream.page_index is not None and index != stream.page_index + 1 & 0xFFFFFFFF:
            raise truncated(f"pages {stream.page_index + 1} to {index - 1} are missing")
        stream.page_index, stream.ended = index, bool(flags & _OGG_LAST)
        stream.pages.append(page)
    return _audio_of_links(links)


def _audio_of_links(links: Sequence[Dict[int, _Logical]]) -> List[Stream]:
    streams: List[_Logical] = []
    for link in links:
        audio = [stream for stream in link.values() if stream.is_audio]
        if len(audio) > 1:
            raise AudioError(f"{len(audio)} audio streams beside each other; write a file of each")
        if not all(stream.ended for stream in audio):
            raise truncated("the last page of its stream is missing")
        streams += audio
    if len(links) == len(links[0]) == len(streams) == 1 or not streams:
        return [Stream()]
    return [Stream(io.BytesIO(b"".join(stream.pages))) for stream in streams]
