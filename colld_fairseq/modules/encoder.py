"""The student encoder: front-end, mask embedding, positions, Transformer or Conformer blocks."""

from dataclasses import dataclass
from functools import partial
from typing import Callable, Dict, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.block_runs import BlockRuns, active
from colld_fairseq.modules.chunks import Chunk, Count, draw_chunk, widest
from colld_fairseq.modules.conformer import ConformerBlock
from colld_fairseq.modules.cpu import use_cpu_kernels
from colld_fairseq.modules.cpu.packing import Packing
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.frontends import FRONT_ENDS
from colld_fairseq.modules.lengths import lengths_to_padding_mask
from colld_fairseq.modules.positions import (
    ConvPositionalEmbedding,
    Rotary,
    SinusoidalPositions,
    attention_key_bias,
    rotary_table,
)
from colld_fairseq.modules.transformer import TransformerBlock

UTTERANCE_FRAMES = 384  # fewer at once would leave a matrix product too little to do
Mask = Union[Tensor, Callable[[Tensor], Tensor]]

__all__ = ["EncoderConfig", "EncoderOutput", "StudentEncoder"]


@dataclass
class EncoderOutput:
    """What a student encoder returns.

    Attributes:
        x: [B, T, D], after the final norm where there is one. Padded frames hold arbitrary values.
        lengths: [B] frames.
        padding_mask: bool [B, T], True on padding.
        features: the requested layers, layer -> [B, T, D].
        mask: bool [B, T], the frames replaced by the mask embedding, or None.
        front_end: [B, T, D], what entered masking and positions (see `StudentEncoder.embed`).
    """

    x: Tensor
    lengths: Tensor
    padding_mask: Tensor
    features: Dict[int, Tensor]
    mask: Optional[Tensor]
    front_end: Tensor


class StudentEncoder(nn.Module):
    """Speech encoder configured by an `EncoderConfig`.

    With post-norm or pre-norm Transformer blocks, "conv" positions and the waveform front-end it is HuBERT /
    wav2vec 2.0; with Conformer blocks, "relative_key" positions, causal convolution and two stacked
    filterbank frames it is w2v-BERT 2.0; weights of those load exactly (see
    `colld_fairseq.checkpoints.encoder`). An utterance's frames do not depend on its batch.

    With a "causal" or "chunk" context frames take in only so much of what comes later: in training as drawn for each
    batch, in evaluation as `set_chunk` says. `StreamingEncoder` gives the
    same output chunk by chunk.

    Attributes:
        chunk: the context of a frame in evaluation; the widest context of the training unless `set_chunk` was called.
        right: frames after its chunk in that context; those who run the encoder on whole utterances do so in steps then
            (`StreamingEncoder.encode`), for no mask says it.
        runs: how blocks are run in training.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        width = config.embed_dim
        transformer = config.block == "transformer"
        self.front_end = FRONT_ENDS[config.front_end](config)
        stride = config.time_reduction
        self.time_reduction = nn.Conv1d(width, width, stride, stride=stride) if stride > 1 else None
        self.dropout_input = nn.Dropout(config.dropout_input)
        self.mask_emb = nn.Parameter(torch.empty(width).uniform_())
        self.pos_conv = None
        if config.position == "conv":
            self.pos_conv = ConvPositionalEmbedding(width, config.conv_pos, config.conv_pos_groups)
        self.positions = None
        if config.position == "sinusoidal":
            self.positions = SinusoidalPositions(config.max_positions, width)
        self.dropout = nn.Dropout(config.dropout)
        block = TransformerBlock if transformer else ConformerBlock
        self.blocks = nn.ModuleList(block(config) for _ in range(config.layers))
        self.runs = BlockRuns()
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if transformer else None
        if transformer:
            self.blocks.apply(_init_bert)
        self._chunk_sizes = [1] if config.context == "causal" else config.chunk_sizes
        self.chunk, self.right = Chunk(), 0
        if config.context != "full":
            self.chunk = Chunk(widest(self._chunk_sizes), widest(config.left_contexts))

    def set_chunk(self, size: Count = None, left: Count = None, right: int = 0) -> None:
        """Choose the context of a frame in evaluation: its chunk of `size` frames and `left` chunks before it.

        None = no limit; the size of a causal encoder's chunks is always 1. ConfigError where the encoder was not
        trained for streaming.
        """
        self.chunk, self.right = self.chunk_of(size, left), right

    def chunk_of(self, size: Count = None, left: Count = None) -> Chunk:
        """What `set_chunk` would choose."""
        if self.config.context == "full" and (size, left) != (None, None):
            raise ConfigError(
                "this student takes in the whole utterance; it cannot stream or be limited to chunks: train one with"
                " --encoder-context chunk or causal"
            )
        if self.config.context == "causal":
            if size not in (None, 1):
                raise ConfigError(f"a causal student takes in nothing later: its chunks are of 1 frame, not of {size}")
            size = 1
        return Chunk(size, left).checked()

    @property
    def width(self) -> int:
        """Width D of every layer."""
        return self.config.embed_dim

    @property
    def num_layers(self) -> int:
        return self.config.layers

    @property
    def output_layer(self) -> int:
        """Number by which `forward` knows the output of the encoder: one more than the last block's."""
        return self.num_layers + 1

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second of every layer."""
        return self.front_end.frame_rate_hz / self.config.time_reduction

    def output_lengths(self, source_lengths: Tensor) -> Tensor:
        """Samples or filterbank frames [B] -> encoder frames [B]."""
        lengths = self.front_end.output_lengths(source_lengths)
        return torch.div(lengths, self.config.time_reduction, rounding_mode="floor")

    def num_parameters(self) -> int:
        """Parameters of the deployed encoder: all but the mask embedding, which only training uses, and the biases of
        Whisper's keys, which have no effect and are in none of its files.

        This is how the published sizes count (DistilHuBERT 23,491,200).
        """
        key_biases = self.width * len(self.blocks) if self.config.front_end == "whisper" else 0
        return sum(p.numel() for p in self.parameters()) - self.mask_emb.numel() - key_biases

    def embed(self, source: Tensor, source_lengths: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """The front-end's output [B, T, D], after its dropout and before masks and positions, and lengths [B].

        Takes what `forward` takes; nothing else of the encoder is run.
        """
        x, lengths = self.front_end(source, source_lengths)
        if self.time_reduction is not None:
            x = self.time_reduction(x.transpose(1, 2)).transpose(1, 2)
            lengths = torch.div(lengths, self.config.time_reduction, rounding_mode="floor")
        return self.dropout_input(x), lengths

    def forward(
        self,
        source: Tensor,
        source_lengths: Optional[Tensor] = None,
        mask: Optional[Mask] = None,
        layers: Sequence[int] = (),
        kind: str = "layer",
        channel_mask: Optional[Tensor] = None,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            source: samples [B, N] in [-1, 1] at 16 kHz for the waveform front-end, else filterbanks [B, T,
                bins] at 100 Hz.
            source_lengths: [B] valid samples or frames; None when no utterance is padded.
            mask: frames to replace by the learned mask embedding, bool [B, T] at the encoder's rate, or a
                function from encoder lengths [B] to such a mask.
            layers: layers to return: 0 = input of the first block, k = output of block k (before the final
                norm of a pre-norm encoder), `output_layer` = what leaves the encoder, after that norm.
            kind: "layer", or "ffn" for the raw output of block k's (second) feed-forward, before dropout, the
                Conformer's factor 1/2, residual and norm.
            channel_mask: channels of the projected features to zero over a whole utterance, bool [B, D].

        A block skipped by layerdrop passes its input on: that is its "layer" feature, and its "ffn" feature
        is zero.
        """
        self._check_layers(layers, kind)
        if source_lengths is not None and _is_unpadded(source, source_lengths):
            source_lengths = None
        front_end, lengths = self.embed(source, source_lengths)
        padding_mask = lengths_to_padding_mask(lengths, front_end.size(1))
        x, mask = self._apply_mask(front_end, lengths, padding_mask, mask)
        if channel_mask is not None:
            x = x.masked_fill(channel_mask.unsqueeze(1), 0.0)
        # Without padding the blocks get no mask, which lets attention take its fastest path.
        block_padding = None if source_lengths is None else padding_mask
        x = self._add_positions(x, block_padding)
        chunk = draw_chunk(self._chunk_sizes, self.config.left_contexts) if self._draws_chunks else self.chunk
        key_bias = attention_key_bias(block_padding, x.dtype, chunk.hidden(x.size(1), device=x.device))
        rotary = None
        if self.config.position == "rotary":
            rotary = rotary_table(x.size(1), self.width // self.config.attention_heads, x)

        features = {0: x} if 0 in layers else {}
        run = partial(self._run_blocks, layers=layers, kind=kind, skip=self._skipped_blocks())
        if self._packs(x, block_padding):
            packing = Packing.of(padding_mask)
            # Without gradients little is kept, and what a few utterances need stays in the cache.
            parts = [packing.frames] if torch.is_grad_enabled() else packing.parts(UTTERANCE_FRAMES)
            rows = packing.pack(x).split([sum(utterances) for utterances in parts], dim=1)
            results = [run(part, None, None, None, utterances) for part, utterances in zip(rows, parts)]
            x, outputs = packing.unpack(torch.cat([y for y, _ in results], dim=1)), {}
            for layer in results[0][1]:
                outputs[layer] = packing.unpack(torch.cat([part[layer] for _, part in results], dim=1))
        else:
            x, outputs = run(x, block_padding, key_bias, rotary)
        return EncoderOutput(x, lengths, padding_mask, {**features, **outputs}, mask, front_end)

    def _run_blocks(
        self,
        x: Tensor,
        padding_mask: Optional[Tensor],
        key_bias: Optional[Tensor],
        rotary: Optional[Rotary],
        *utterances: Sequence[int],
        layers: Sequence[int],
        kind: str,
        skip: Sequence[bool],
    ) -> Tuple[Tensor, Dict[int, Tensor]]:
        """All blocks and the final norm: the output and the features of `layers`, both [B, T, D]."""
        features = {}
        for layer, block in enumerate(self.blocks, start=1):
            if skip[layer - 1]:
                ffn = torch.zeros_like(x)
            else:
                x, ffn = self.runs(block, x, padding_mask, key_bias, rotary, *utterances)
            if layer in layers:
                features[layer] = x if kind == "layer" else ffn
        if self.layer_norm is not None and self.config.norm_first:
            x = self.layer_norm(x)
        if self.output_layer in layers:
            features[self.output_layer] = x
        return x, features

    def _apply_mask(self, x: Tensor, lengths: Tensor, padding_mask: Tensor, mask: Optional[Mask]):
        """Replace masked frames; returns the features and the mask used, without padded frames."""
        if mask is None:
            return x, None
        if callable(mask):
            mask = mask(lengths).to(x.device)
            mask = F.pad(mask, (0, x.size(1) - mask.size(1)))
        if mask.shape != x.shape[:2]:
            raise ConfigError(f"mask has shape {tuple(mask.shape)}; the encoder has {tuple(x.shape[:2])} frames")
        mask = mask & ~padding_mask
        return torch.where(mask.unsqueeze(-1), self.mask_emb.to(x.dtype), x), mask

    def _add_positions(self, x: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
        if self.pos_conv is not None:
            if padding_mask is not None:
                x = x.masked_fill(padding_mask.unsqueeze(-1), 0.0)
            x = x + self.pos_conv(x)
        if self.positions is not None:
            x = self.positions(x)
        if self.layer_norm is not None and not self.config.norm_first:
            x = self.layer_norm(x)
        return self.dropout(x)

    def _packs(self, x: Tensor, padding_mask: Optional[Tensor]) -> bool:
        """Whether blocks get the utterances behind one another; of these blocks only attention mixes frames."""
        gains = padding_mask is not None or (x.size(0) > 1 and not torch.is_grad_enabled())
        able = self.config.block == "transformer" and self.config.position != "rotary"
        compiled = self.runs.compiled and active(self)
        return gains and able and not compiled and use_cpu_kernels("packing", x)

    @property
    def _draws_chunks(self) -> bool:
        return self.training and self.config.context != "full"

    def _skipped_blocks(self) -> Sequence[bool]:
        """One decision per block, from torch's generator so that a resumed run repeats them."""
        if not self.training or self.config.layerdrop == 0.0:
            return [False] * self.num_layers
        return (torch.rand(self.num_layers) < self.config.layerdrop).tolist()

    def _check_layers(self, layers: Sequence[int], kind: str) -> None:
        if kind not in ("layer", "ffn"):
            raise ConfigError(f"kind={kind!r} is not known; choose 'layer' or 'ffn'")
        first = 0 if kind == "layer" else 1
        wrong = [layer for layer in layers if not first <= layer <= self.output_layer]
        if wrong:
            raise ConfigError(f"student layers {wrong} do not exist: kind={kind!r} has {first}..{self.num_layers}")


def _is_unpadded(source: Tensor, lengths: Tensor) -> bool:
    """Whether every utterance fills the batch, where asking is free: eager mode, lengths on the CPU. What is traced or
    exported with such a batch is to take others, too."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or lengths.device.type != "cpu":
        return False
    return bool((lengths == source.size(1)).all())


def _init_bert(module: nn.Module) -> None:
    """Normal weights with deviation 0.02, zero biases: the start of wav2vec 2.0 and HuBERT."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
