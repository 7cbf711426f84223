"""A stream of samples in a container, and the tags that players put around any audio."""

import re
from typing import BinaryIO, NamedTuple, Optional

from colld_fairseq.errors import AudioError

TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")  # what they begin with


class Stream(NamedTuple):
    """A stream of samples in a file."""

    source: Optional[BinaryIO] = None  # what libsndfile is to read; None: the file as it is
    counted: bool = True  # whether libsndfile's number of frames is the true one
    least: int = 0  # frames there must be where they have to be counted by decoding


def truncated(what: str = "the file ends before its audio does") -> AudioError:
    return AudioError(f"truncated, {what}; copy or encode the file again")


def after_id3(data: bytes, at: int = 0) -> int:
    """The first byte behind ID3v2 tags."""
    while data[at : at + 3] == b"ID3" and len(data) >= at + 10:
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        at += 10 + size + 10 * bool(data[at + 5] & 0x10)
    return at


def after_tag(data: bytes, at: int) -> int:
    """The first byte behind a tag (ID3v2, ID3v1, APE, Lyrics3) at `at`."""
    if data.startswith(b"TAG", at):
        return at + 128
    if data.startswith(b"APETAGEX", at) and len(data) >= at + 32:
        # the size counts items and footer; a tag that begins with a header has the 32 bytes of that more
        return at + 32 + int.from_bytes(data[at + 12 : at + 16], "little")
    if data.startswith(b"LYRICSBEGIN", at):
        end = re.compile(rb"LYRICSEND|LYRICS200").search(data, at)
        return end.end() if end else len(data)
    return after_id3(data, at)


def without_tags(data: bytes) -> bytes:
    """Without an ID3v1 and an APE tag at the end."""
    if data[-128:-125] == b"TAG":
        data = data[:-128]
    footer = data[-32:]
    if footer.startswith(b"APETAGEX"):
        has_header = footer[23] & 0x80
        data = data[: -int.from_bytes(footer[12:16], "little") - 32 * bool(has_header)]
    return data
