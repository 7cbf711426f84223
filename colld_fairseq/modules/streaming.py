"""A student encoder that is given a stream chunk by chunk, with its memory in the caller's hands.

What comes out is what `StudentEncoder` makes of the whole utterance under the same `Chunk`, in any batch.

With a right context each step takes in some frames after its chunk, too, which the next step computes again: to them it
is a longer chunk of which the beginning counts (Shi et al. 2021, arXiv:2010.10759, Emformer). Nothing has to be trained
for that but chunks of such lengths.
"""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.conformer import BlockMemory
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.modules.positions import attention_key_bias, rotary_table


class StreamState(NamedTuple):
    """What an encoder keeps of B streams, which may be of any age.

    frames: int64 [B], encoder frames so far. blocks: the memory of each block; of the P frames in it the last ones are
    a stream's own, as many as there were (see `cached`).
    """

    frames: Tensor
    blocks: Tuple[BlockMemory, ...]

    @property
    def cached(self) -> Tensor:
        """int64 [B], frames whose keys and values each stream still has."""
        return self.frames.clamp(max=self.blocks[0].attention.size(1))

    def split(self) -> List["StreamState"]:
        """The state of each stream as a batch of one."""
        states = []
        for row, own in enumerate(self.cached.tolist()):
            one = slice(row, row + 1)
            blocks = (BlockMemory(a[one, a.size(1) - own :], conv[one]) for a, conv in self.blocks)
            states.append(StreamState(self.frames[one], tuple(blocks)))
        return states

    @classmethod
    def join(cls, states: Sequence["StreamState"]) -> "StreamState":
        """Streams of several states as one batch."""
        blocks = []
        for memories in zip(*(state.blocks for state in states)):
            longest = max(a.size(1) for a, _ in memories)
            attention = [F.pad(a, (0, 0, 0, 0, 0, 0, longest - a.size(1), 0)) for a, _ in memories]
            blocks.append(BlockMemory(torch.cat(attention), torch.cat([conv for _, conv in memories])))
        return cls(torch.cat([state.frames for state in states]), tuple(blocks))


class StreamingEncoder:
    """Runs a causal or chunk-wise student on streams of filterbanks, in evaluation mode.

    Step k of a stream takes filterbank frames `k * fbank_frames_per_chunk` to `(k + 1) * fbank_frames_per_chunk +
    fbank_lookahead - 1`: the lookahead is given again as the beginning of the next step.

    Args:
        encoder: whose context is not "full", else ConfigError. It is put into evaluation mode.
        chunk: encoder frames per step; of a chunk-wise student also its chunk.
        left: chunks ("causal": frames) before its own that a frame attends to; None = all, for which memory and time of
            a step grow with the stream.
        right: frames after its chunk that a frame of a chunk-wise student attends to.

    Attributes:
        fbank_frames_per_chunk: filterbank frames (10 ms) by which streams go on.
        fbank_lookahead: filterbank frames more that a step needs.
    """

    def __init__(self, encoder: StudentEncoder, chunk: int, left: Optional[int] = None, right: int = 0) -> None:
        if chunk < 1:
            raise ConfigError(f"a step of {chunk} frames: it needs at least 1")
        if right and encoder.config.context == "causal":
            raise ConfigError(f"a causal student takes in nothing later: it has no right context of {right} frames")
        self.context = encoder.chunk_of(1 if encoder.config.context == "causal" else chunk, left)
        self.encoder, self.chunk, self.right = encoder.eval(), chunk, right
        self.fbank_frames_per_chunk = round(chunk * 100 / encoder.frame_rate_hz)
        self.fbank_lookahead = encoder.front_end.lookahead + round(right * 100 / encoder.frame_rate_hz)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Filterbank frames given to one step [B] -> encoder frames out of it [B]: of one that is not a stream's last,
        the chunk without its right context."""
        goes_on = lengths >= self.fbank_frames_per_chunk + self.fbank_lookahead
        return torch.where(goes_on, self.chunk, self.encoder.output_lengths(lengths))

    def start(self, batch: int) -> StreamState:
        """The state of B streams before their first frame."""
        config, like = self.encoder.config, self.encoder.mask_emb
        heads = config.attention_heads
        memory = BlockMemory(
            like.new_zeros(batch, 0, 2, heads, config.embed_dim // heads),
            like.new_zeros(batch, config.depthwise_conv_kernel - 1, config.embed_dim),
        )
        return StreamState(torch.zeros(batch, dtype=torch.int64, device=like.device), (memory,) * config.layers)

    @torch.no_grad()
    def step(
        self, fbank: Tensor, state: StreamState, last: bool = False, lengths: Optional[Tensor] = None
    ) -> Tuple[Tensor, StreamState]:
        """One chunk of each stream.

        Args:
            fbank: [B, fbank_frames_per_chunk + fbank_lookahead, 80].
            state: from `start`, or from the step before. It stays as it is.
            last: this ends streams: fewer frames are allowed, and
            lengths: [B] how many of them each has where they differ. Those that have all go on.

        Returns frames [B, C, D], C = `chunk`, or at the end fewer, or as many as with the right context, and the state
        after them. Frames beyond a stream's own (`output_lengths(lengths)`), and its state after such, hold arbitrary
        values.
        """
        whole = self.fbank_frames_per_chunk + self.fbank_lookahead
        given = fbank.size(1)
        if given > whole or (not last and (given < whole or lengths is not None)):
            raise ConfigError(f"a step takes {whole} filterbank frames, or fewer at the end of a stream; got {given}")
        if int(self.output_lengths(torch.tensor(given))) == 0:
            return state.blocks[0].conv.new_zeros(fbank.size(0), 0, self.encoder.width), state
        x, _ = self.encoder.embed(fbank)
        key_bias = self._key_bias(x, state, None if lengths is None else self.encoder.output_lengths(lengths))
        own = min(x.size(1), self.chunk)
        rotary = None
        past = state.blocks[0].attention.size(1)
        if self.encoder.config.position == "rotary":
            rotary = rotary_table(past + x.size(1), self.encoder.width // self.encoder.config.attention_heads, x)
        kept = self.context.left_frames
        blocks = []
        for block, memory in zip(self.encoder.blocks, state.blocks):
            x, (attention, conv) = block.step(x, memory, key_bias, rotary, own)
            if kept is not None:
                attention = attention[:, max(attention.size(1) - kept, 0) :]
            blocks.append(BlockMemory(attention, conv))
        return x if last else x[:, :own], StreamState(state.frames + own, tuple(blocks))

    @torch.no_grad()
    def encode(self, source: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Filterbanks of whole utterances [B, T, 80] and lengths [B] -> frames [B, T', D] and lengths [B], as streams
        would have them."""
        shift, window = self.fbank_frames_per_chunk, self.fbank_frames_per_chunk + self.fbank_lookahead
        lengths, state = lengths.cpu(), self.start(len(source))
        parts: List[List[Tensor]] = [[] for _ in source]
        for begin in range(0, max(source.size(1), 1), shift):
            running = (lengths >= window + begin - shift) | (begin == 0)  # the step before was not their last
            if not running.any():
                break
            piece = source[:, begin : begin + window]
            given = (lengths - begin).clamp(0, piece.size(1))
            last = bool((given < window).any())
            x, state = self.step(piece, state, last, given if last else None)
            counts = (self.output_lengths(given) * running).tolist()
            for part, frames, count in zip(parts, x, counts):
                part.append(frames[:count])
        frames = torch.nn.utils.rnn.pad_sequence([torch.cat(part) for part in parts], batch_first=True)
        return frames, torch.tensor([sum(map(len, part)) for part in parts])

    def _key_bias(self, x: Tensor, state: StreamState, lengths: Optional[Tensor]) -> Optional[Tensor]:
        """Hides what is not a stream's own memory, what comes after its end, and what the context leaves out."""
        frames, past = x.size(1), state.blocks[0].attention.size(1)
        positions = torch.arange(-past, frames, device=x.device)
        padding = positions < -state.cached[:, None]
        if lengths is not None:
            padding |= positions >= lengths.to(x.device)[:, None]
        # All frames of one chunk attend to all of it, and to all that is cached.
        hidden = None if self.context.size == self.chunk else self.context.hidden(frames, past, x.device)
        return attention_key_bias(padding if padding.any() else None, x.dtype, hidden)
