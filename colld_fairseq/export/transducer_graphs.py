"""A transducer as the three graphs of icefall: encoder, decoder (the prediction network), joiner.

Shapes: N utterances, T filterbank frames (or samples), F encoder frames, J width of the joiner, V symbols, C symbols of
context, L layers, D width, K kernel of the convolution.
"""

from typing import Iterable, List, Optional, Tuple

import torch
from torch import Tensor, nn

from colld_fairseq.export.ctc_graph import NEVER
from colld_fairseq.modules.conformer import BlockMemory
from colld_fairseq.modules.positions import attention_key_bias, rotary_table
from colld_fairseq.modules.streaming import StreamingEncoder
from colld_fairseq.modules.transducer import Joiner, StatelessPredictor


class EncoderGraph(nn.Module):
    """Normalization, encoder and the joiner's projection, of whole utterances."""

    def __init__(self, encoder: nn.Module, projection: nn.Module, normalization: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projection, self.normalization = encoder, projection, normalization

    def forward(self, x: Tensor, x_lens: Tensor) -> Tuple[Tensor, Tensor]:
        """Filterbanks [N, T, bins] or samples [N, T], not normalized, and lengths int64 [N] -> [N, F, J], [N]."""
        encoded = self.encoder(self.normalization(x, x_lens), x_lens)
        return self.projection(encoded.x), encoded.lengths


class StreamingEncoderGraph(nn.Module):
    """A step of `StreamingEncoder` with memories of a fixed size, as sherpa-onnx keeps them for its `conformer`.

    P: frames of left context. Keys stand before values in one memory; both have the encoder's width.
    """

    def __init__(self, streaming: StreamingEncoder, projection: nn.Module, normalization: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projection, self.normalization = streaming.encoder, projection, normalization
        config, self.chunk, self.past = self.encoder.config, streaming.chunk, streaming.context.left_frames
        self.heads, self.fbank_frames = config.attention_heads, round(100 / self.encoder.frame_rate_hz)
        hidden = None
        if streaming.context.size != self.chunk:
            hidden = streaming.context.hidden(self.chunk, self.past)
        self.register_buffer("hidden", hidden)
        cos = sin = None
        if config.position == "rotary":
            like = self.encoder.mask_emb
            cos, sin = rotary_table(self.past + self.chunk, config.embed_dim // self.heads, like)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def start(self, streams: int) -> Tuple[Tensor, Tensor]:
        """Memories before the first step: [L, 2P, N, D] and [L, K - 1, N, D]."""
        config = self.encoder.config
        return (
            torch.zeros(config.layers, 2 * self.past, streams, config.embed_dim),
            torch.zeros(config.layers, config.depthwise_conv_kernel - 1, streams, config.embed_dim),
        )

    def forward(
        self, x: Tensor, cached_attn: Tensor, cached_conv: Tensor, processed_lens: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """One step: filterbanks [N, T, bins], memories, and how many filterbank frames came before, int64 [N].

        Returns [N, chunk, J] and the memories after the step.
        """
        encoded, _ = self.encoder.embed(self.normalization(x, None))
        frames = torch.div(processed_lens, self.fbank_frames, rounding_mode="floor")
        positions = torch.arange(-self.past, self.chunk)
        padding = positions[None] < -frames.clamp(max=self.past)[:, None]
        bias = attention_key_bias(padding, encoded.dtype, self.hidden)
        rotary = None if self.cos is None else (self.cos, self.sin)
        attentions: List[Tensor] = []
        convolutions: List[Tensor] = []
        for layer, block in enumerate(self.encoder.blocks):
            memory = BlockMemory(self._unfolded(cached_attn[layer]), cached_conv[layer].transpose(0, 1))
            encoded, (attention, conv) = block.step(encoded, memory, bias, rotary)
            attentions.append(self._folded(attention[:, self.chunk :]))
            convolutions.append(conv.transpose(0, 1))
        return self.projection(encoded), torch.stack(attentions), torch.stack(convolutions)

    def _unfolded(self, memory: Tensor) -> Tensor:
        """[2P, N, D] -> [N, P, 2, H, head_dim]."""
        return memory.view(2, self.past, memory.size(1), self.heads, -1).permute(2, 1, 0, 3, 4)

    def _folded(self, memory: Tensor) -> Tensor:
        """[N, P, 2, H, head_dim] -> [2P, N, D]."""
        return memory.permute(2, 1, 0, 3, 4).flatten(3).flatten(0, 1)


class StatelessDecoderGraph(nn.Module):
    """The prediction network on the last symbols, and the joiner's projection.

    Args:
        tag: of the target language, added to every symbol; None where there is none.
    """

    def __init__(self, predictor: StatelessPredictor, joiner: Joiner, tag: Optional[int]) -> None:
        super().__init__()
        self.predictor, self.projection = predictor, joiner.predictor_projection
        self.tag = predictor.pad if tag is None else tag

    def forward(self, y: Tensor) -> Tensor:
        """Symbols int64 [N, C or more], negative (read as blanks) before the beginning -> [N, J]."""
        y = y[:, y.size(1) - self.predictor.context :].clamp(min=0)
        output, _ = self.predictor.step(y[:, -1], (y[:, :-1], torch.full_like(y[:, 0], self.tag)))
        return self.projection(output)


class JoinerGraph(nn.Module):
    """The joiner behind its projections; what decoding never emits is masked out."""

    def __init__(self, joiner: Joiner, never_emitted: Iterable[int]) -> None:
        super().__init__()
        self.joiner = joiner
        mask = torch.zeros(joiner.output.out_features)
        mask[list(never_emitted)] = NEVER
        self.register_buffer("mask", mask)

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        """[N, J] and [N, J] -> logits [N, V]."""
        return self.joiner(encoder_out, decoder_out) + self.mask
