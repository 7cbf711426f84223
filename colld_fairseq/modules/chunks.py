"""What a frame of a streaming encoder may depend on: its own chunk of frames, and some chunks before it.

With chunks of one frame no frame takes in a later one (a causal encoder); the longer the chunk, the more a frame takes
in and the later its output comes. One set of weights serves many chunk sizes when training draws a size for every batch
(Zhang et al., arXiv 2012.05481: WeNet's U2).
"""

from typing import List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from colld_fairseq.errors import ConfigError

Count = Optional[int]  # None = without limit

__all__ = ["Chunk", "Count", "draw_chunk", "parse_count", "parse_counts", "widest"]


class Chunk(NamedTuple):
    """Chunks of `size` frames, each of which takes in itself and `left` chunks before it.

    size None: one chunk, the whole utterance. left None: all chunks before.
    """

    size: Count = None
    left: Count = None

    def hidden(self, frames: int, past: int = 0, device: Optional[torch.device] = None) -> Optional[Tensor]:
        """Keys that each frame may not attend to: bool [frames, past + frames], True = hidden; None where nothing is.

        The frames follow on `past` others, and the first of them begins a chunk.
        """
        if self.size is None:
            return None
        chunks = torch.div(torch.arange(-past, frames, device=device), self.size, rounding_mode="floor")
        own = chunks[past:, None]
        hidden = chunks > own
        return hidden if self.left is None else hidden | (chunks < own - self.left)

    @property
    def left_frames(self) -> Count:
        """Frames before its chunk that a frame takes in."""
        return None if self.left is None or self.size is None else self.left * self.size

    def checked(self) -> "Chunk":
        """Itself; ConfigError for a chunk of no frame or a negative context."""
        if self.size is not None and self.size < 1:
            raise ConfigError(f"a chunk of {self.size} frames: it needs at least 1")
        if self.left is not None and self.left < 0:
            raise ConfigError(f"a left context of {self.left} chunks: it must not be negative")
        return self


def draw_chunk(sizes: Sequence[Count], lefts: Sequence[Count]) -> Chunk:
    """A size and a left context, each uniform over its list: a value that stands there twice comes twice as often.

    From torch's CPU generator, which fairseq reseeds at every update: a resumed run draws what an uninterrupted one
    would have drawn.
    """
    size, left = (choices[int(torch.randint(len(choices), ()))] for choices in (sizes, lefts))
    return Chunk(size, left)


def widest(counts: Sequence[Count]) -> Count:
    """The largest, None if one has no limit."""
    return None if None in counts else max(counts)


def parse_count(text: str, option: str) -> Count:
    """ "8" -> 8, "full" -> None; ConfigError names the option."""
    text = str(text).strip()
    if text == "full":
        return None
    if not text.isdecimal():
        raise ConfigError(f"{option} {text!r}: write a number, or full")
    return int(text)


def parse_counts(text: str, option: str) -> List[Count]:
    """ "8,16,full" -> [8, 16, None]."""
    return [parse_count(part, option) for part in str(text).split(",")]
