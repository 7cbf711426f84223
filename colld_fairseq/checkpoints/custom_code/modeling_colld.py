"""A Conformer on filterbanks with a CTC layer, trained with colld_fairseq; for transformers' AutoModelForCTC.

B batch, T frames of filterbanks or of the encoder, D its width, H heads. Padding masks are True on padding.
"""

from typing import Any, Callable, Dict, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .configuration_colld import ColldConfig

ACTIVATIONS: Dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu}
NEVER = -1e4  # the logit of what is never written; no softmax of half precision turns it into NaN
Rotary = Tuple[Tensor, Tensor]


class StackFrontEnd(nn.Module):
    """Neighboring frames side by side, LayerNorm, Linear; frames that do not fill a last stack are dropped."""

    def __init__(self, config: ColldConfig) -> None:
        super().__init__()
        self.stack = config.stacked_frames
        width = config.num_mel_bins * self.stack
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if config.feature_norm else nn.Identity()
        self.projection = nn.Linear(width, config.hidden_size)

    def lengths(self, lengths: Tensor) -> Tensor:
        return torch.div(lengths, self.stack, rounding_mode="floor")

    def forward(self, x: Tensor) -> Tensor:
        x = at_least(x, self.stack)
        frames = x.size(1) // self.stack
        return self.projection(self.layer_norm(x[:, : frames * self.stack].reshape(x.size(0), frames, -1)))


class ConvFrontEnd(nn.Module):
    """A convolution over 5 frames with stride 2, GLU, Linear. Padded frames have to be zero."""

    def __init__(self, config: ColldConfig) -> None:
        super().__init__()
        self.conv = nn.Conv1d(config.num_mel_bins, 2 * config.hidden_size, kernel_size=5, stride=2, padding=2)
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)

    def lengths(self, lengths: Tensor) -> Tensor:
        return torch.div(lengths + 1, 2, rounding_mode="floor")

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(F.glu(self.conv(at_least(x, 1).transpose(1, 2)), dim=1).transpose(1, 2))


class Conv2dFrontEnd(nn.Module):
    """Two convolutions over time and frequency, kernel 3, stride 2, ReLU; Linear."""

    SHORTEST = 7

    def __init__(self, config: ColldConfig) -> None:
        super().__init__()
        channels = config.subsampling_channels
        self.convs = nn.ModuleList(nn.Conv2d(inner, channels, 3, stride=2) for inner in (1, channels))
        self.projection = nn.Linear(channels * ((config.num_mel_bins - 3) // 4), config.hidden_size)

    def lengths(self, lengths: Tensor) -> Tensor:
        return torch.div(lengths - 3, 4, rounding_mode="floor").clamp(min=0)

    def forward(self, x: Tensor) -> Tensor:
        x = at_least(x, self.SHORTEST).unsqueeze(1)
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.projection(x.transpose(1, 2).flatten(2))


def at_least(x: Tensor, frames: int) -> Tensor:
    """[B, T, bins] with zeros behind it where it is shorter than one frame needs; that frame is padding then."""
    return F.pad(x, (0, 0, 0, max(0, frames - x.size(1))))


FRONT_ENDS = {"fbank_stack": StackFrontEnd, "fbank": ConvFrontEnd, "conv2d": Conv2dFrontEnd}


def rotary_table(frames: int, head_dim: int, like: Tensor) -> Rotary:
    """Cosines and sines [T, 1, head_dim / 2]; angles in double precision, on the CPU, as not every device has it."""
    steps = torch.arange(0, head_dim, 2, dtype=torch.float64)
    angles = torch.arange(frames, dtype=torch.float64)[:, None] * 10000.0 ** (-steps / head_dim)
    return angles.cos()[:, None].to(like), angles.sin()[:, None].to(like)


def rotate(x: Tensor, table: Rotary) -> Tensor:
    """[B, T, H, head_dim], each frame turned by its angles."""
    cos, sin = table
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class RelativeKey(nn.Module):
    """Scores of the distance between query and key, clamped to [-left, right] frames (Shaw et al. 2018)."""

    def __init__(self, head_dim: int, left: int, right: int) -> None:
        super().__init__()
        self.left, self.right = left, right
        self.weight = nn.Parameter(torch.zeros(left + right + 1, head_dim))

    def forward(self, query: Tensor) -> Tensor:
        """[B, H, T, head_dim] -> [B, H, T, T]."""
        batch, heads, frames, head_dim = query.shape
        scores = torch.matmul(query, self.weight.t()) * head_dim**-0.5
        positions = torch.arange(frames, device=query.device)
        distance = (positions[None] - positions[:, None]).clamp(-self.left, self.right) + self.left
        return scores.gather(-1, distance.expand(batch, heads, frames, frames))


class Attention(nn.Module):
    def __init__(self, config: ColldConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.head_dim = config.hidden_size // self.heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)
        self.relative_key = None
        if config.position_embeddings_type == "relative_key":
            sides = config.left_max_position_embeddings, config.right_max_position_embeddings
            self.relative_key = RelativeKey(self.head_dim, *sides)

    def forward(self, x: Tensor, bias: Optional[Tensor], rotary: Optional[Rotary]) -> Tensor:
        """[B, T, D] -> [B, T, D]; `bias` [B or 1, 1, 1 or T, T] is added to the scores."""
        batch, frames, width = x.shape
        query, key, value = self.qkv(x).view(batch, frames, 3, self.heads, self.head_dim).unbind(2)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        if self.relative_key is not None:
            distances = self.relative_key(query)
            bias = distances if bias is None else distances + bias
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        return self.out(y.transpose(1, 2).reshape(batch, frames, width))


class FeedForward(nn.Module):
    def __init__(self, config: ColldConfig) -> None:
        super().__init__()
        self.linear_in = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear_out = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.dropout = nn.Dropout(config.activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_out(self.dropout(self.activation(self.linear_in(x))))


class DepthwiseConv(nn.Module):
    """One filter over time for each channel, of past frames only or centered."""

    def __init__(self, config: ColldConfig) -> None:
        super().__init__()
        kernel = config.conv_depthwise_kernel_size
        left = kernel - 1 if config.causal_conv else (kernel - 1) // 2
        self.sides = left, kernel - 1 - left
        self.weight = nn.Parameter(torch.zeros(config.hidden_size, 1, kernel))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x.transpose(1, 2), self.sides)
        return F.conv1d(x, self.weight, groups=self.weight.size(0)).transpose(1, 2)


class Convolution(nn.Module):
    def __init__(self, config: ColldConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm = nn.LayerNorm(width, eps=eps)
        self.pointwise_in = nn.Linear(width, 2 * width, bias=False)
        self.depthwise = DepthwiseConv(config)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.pointwise_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        x = F.glu(self.pointwise_in(self.layer_norm(x)), dim=-1).masked_fill(padding.unsqueeze(-1), 0.0)
        return self.pointwise_out(self.activation(self.norm(self.depthwise(x))))


class Block(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, LayerNorm (Gulati et al. 2020)."""

    def __init__(self, config: ColldConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.ffn1_layer_norm = nn.LayerNorm(width, eps=eps)
        self.ffn1 = FeedForward(config)
        self.attention_layer_norm = nn.LayerNorm(width, eps=eps)
        self.attention = Attention(config)
        self.conv = Convolution(config)
        self.ffn2_layer_norm = nn.LayerNorm(width, eps=eps)
        self.ffn2 = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x: Tensor, padding: Tensor, bias: Optional[Tensor], rotary: Optional[Rotary]) -> Tensor:
        x = x + 0.5 * self.dropout(self.ffn1(self.ffn1_layer_norm(x)))
        x = x + self.dropout(self.attention(self.attention_layer_norm(x), bias, rotary))
        x = x + self.dropout(self.conv(x, padding))
        return self.final_layer_norm(x + 0.5 * self.dropout(self.ffn2(self.ffn2_layer_norm(x))))


def hidden_by_chunks(frames: int, size: Optional[int], left: Optional[int], device: torch.device) -> Optional[Tensor]:
    """bool [T, T], True where a frame may not attend: chunks after its own, and more than `left` before it."""
    if size is None:
        return None
    chunks = torch.div(torch.arange(frames, device=device), size, rounding_mode="floor")
    own = chunks[:, None]
    hidden = chunks > own
    return hidden if left is None else hidden | (chunks < own - left)


class Encoder(nn.Module):
    def __init__(self, config: ColldConfig) -> None:
        super().__init__()
        self.config = config
        self.front_end = FRONT_ENDS[config.front_end](config)
        self.dropout = nn.Dropout(config.feat_proj_dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Filterbanks [B, T, bins] of `lengths` [B] frames -> [B, T', D], lengths [B]."""
        x = x.masked_fill(padding_of(lengths, x.size(1)).unsqueeze(-1), 0.0)
        x, lengths = self.dropout(self.front_end(x)), self.front_end.lengths(lengths)
        frames = x.size(1)
        padding = padding_of(lengths, frames)
        hidden = padding[:, None, None]
        by_chunks = hidden_by_chunks(frames, *self.config.chunk, x.device)
        if by_chunks is not None:
            hidden = hidden | by_chunks
        # Finite: an utterance that is all padding would give NaN otherwise.
        bias = torch.zeros(hidden.shape, dtype=x.dtype, device=x.device)
        bias = bias.masked_fill(hidden, torch.finfo(x.dtype).min / 2)
        rotary = None
        if self.config.position_embeddings_type == "rotary":
            rotary = rotary_table(frames, self.config.hidden_size // self.config.num_attention_heads, x)
        for block in self.blocks:
            if self.training and torch.rand(()) < self.config.layerdrop:
                continue
            x = block(x, padding, bias, rotary)
        return x, lengths


def padding_of(lengths: Tensor, frames: int) -> Tensor:
    """[B] -> bool [B, frames]."""
    return torch.arange(frames, device=lengths.device) >= lengths[:, None]


class ColldForCTC(PreTrainedModel):
    """Encoder and CTC layer. In padded frames the logits are those of the blank, so that a batch writes what each
    utterance alone does."""

    config_class = ColldConfig
    base_model_prefix = "encoder"
    main_input_name = "input_features"

    def __init__(self, config: ColldConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.ctc = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(
        self,
        input_features: Tensor,
        attention_mask: Optional[Tensor] = None,
        labels: Optional[Tensor] = None,
        **unused: Any,
    ) -> CausalLMOutput:
        """Logits [B, T', V] of filterbanks [B, T, bins].

        Args:
            attention_mask: [B, T], 0 on padding. labels: [B, U], negative on padding; with them the CTC loss.
        """
        if attention_mask is None:
            attention_mask = torch.ones(input_features.shape[:2], dtype=torch.long, device=input_features.device)
        x, lengths = self.encoder(input_features.to(self.ctc.weight.dtype), attention_mask.long().sum(-1))
        logits = self.ctc(x)
        blank = torch.full_like(logits[:1, :1], NEVER)
        blank[..., self.config.pad_token_id] = 0.0
        logits = torch.where(padding_of(lengths, x.size(1)).unsqueeze(-1), blank, logits)
        loss = None if labels is None else self.loss_of(logits, lengths, labels)
        return CausalLMOutput(loss=loss, logits=logits)

    def loss_of(self, logits: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """The CTC loss, by config.ctc_loss_reduction."""
        valid = labels >= 0
        log_probs = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)
        return F.ctc_loss(
            log_probs,
            labels.masked_select(valid),
            lengths,
            valid.sum(-1),
            blank=self.config.pad_token_id,
            reduction=self.config.ctc_loss_reduction,
            zero_infinity=self.config.ctc_zero_infinity,
        )
