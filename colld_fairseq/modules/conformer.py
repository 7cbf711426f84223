"""Conformer block (Gulati et al. 2020, arXiv 2005.08100) in the form w2v-BERT 2.0 uses."""

from typing import NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colld_fairseq.modules.attention import SelfAttention
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.feed_forward import FeedForward, get_activation
from colld_fairseq.modules.positions import Rotary


class DepthwiseConv(nn.Module):
    """Convolution over time with one filter of `kernel` frames per channel, no bias; `causal` = past frames only, else
    centered.

    The weight has torch's Conv1d shape [D, 1, kernel], so that checkpoints of other libraries load unchanged.
    """

    def __init__(self, channels: int, kernel: int, causal: bool = False):
        super().__init__()
        self.kernel, self.causal = kernel, causal
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]; frames outside the utterance count as zero; the caller zeroes padded frames."""
        left = self.kernel - 1 if self.causal else (self.kernel - 1) // 2
        # A contiguous [B, D, T] copy would make torch's CPU backward pass several times slower.
        return self.valid(F.pad(x, (0, 0, left, self.kernel - 1 - left)))

    def valid(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T - kernel + 1, D]: nothing outside `x` is looked at."""
        return F.conv1d(x.transpose(1, 2), self.weight, groups=self.weight.size(0)).transpose(1, 2)


class ConvolutionModule(nn.Module):
    """LayerNorm, pointwise D -> 2D, GLU, depthwise over time, norm, activation, pointwise D -> D.

    Padded frames are zeroed before the depthwise convolution.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        width = config.embed_dim
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pointwise_in = nn.Linear(width, 2 * width, bias=False)
        self.depthwise = DepthwiseConv(width, config.depthwise_conv_kernel, config.causal_conv)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.activation = get_activation(config.activation)
        self.pointwise_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        x = self._gated(x)
        if padding_mask is not None:
            x = x.masked_fill(padding_mask.unsqueeze(-1), 0.0)
        return self._mixed(self.depthwise(x))

    def step(self, x: Tensor, past: Tensor, kept: Optional[int] = None) -> Tuple[Tensor, Tensor]:
        """Further frames [B, T, D] after `past` [B, kernel - 1, D], which begins with zeros; both for the next step.

        kept: frames after which the next step begins, all T of them if not given. Only where the convolution is causal.
        """
        end = past.size(1) + (x.size(1) if kept is None else kept)
        x = torch.cat((past, self._gated(x)), dim=1)
        return self._mixed(self.depthwise.valid(x)), x[:, end - past.size(1) : end]

    def _gated(self, x: Tensor) -> Tensor:
        return F.glu(self.pointwise_in(self.layer_norm(x)), dim=-1)

    def _mixed(self, x: Tensor) -> Tensor:
        return self.pointwise_out(self.activation(self.norm(x)))


class BlockMemory(NamedTuple):
    """What a block keeps of the frames before: keys and values [B, P, 2, H, head_dim], conv [B, kernel - 1, D]."""

    attention: Tensor
    conv: Tensor


class ConformerBlock(nn.Module):
    """Half-step feed-forward, self-attention, convolution, half-step feed-forward, LayerNorm."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        width, eps = config.embed_dim, config.layer_norm_eps
        self.ffn1_layer_norm = nn.LayerNorm(width, eps=eps)
        self.ffn1 = FeedForward(config)
        self.attention_layer_norm = nn.LayerNorm(width, eps=eps)
        self.attention = SelfAttention(config)
        self.conv = ConvolutionModule(config)
        self.ffn2_layer_norm = nn.LayerNorm(width, eps=eps)
        self.ffn2 = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        padding_mask: Optional[Tensor] = None,
        key_bias: Optional[Tensor] = None,
        rotary: Optional[Rotary] = None,
    ) -> Tuple[Tensor, Tensor]:
        """[B, T, D] -> block output [B, T, D] and raw output of the second feed-forward [B, T, D].

        The feed-forward output is what its last linear layer gives: before dropout, the factor 1/2, the
        residual and the norm.
        """
        x = x + 0.5 * self.dropout(self.ffn1(self.ffn1_layer_norm(x)))
        x = x + self.dropout(self.attention(self.attention_layer_norm(x), key_bias, rotary))
        x = x + self.dropout(self.conv(x, padding_mask))
        ffn = self.ffn2(self.ffn2_layer_norm(x))
        x = self.final_layer_norm(x + 0.5 * self.dropout(ffn))
        return x, ffn

    def step(
        self,
        x: Tensor,
        past: BlockMemory,
        key_bias: Optional[Tensor] = None,
        rotary: Optional[Rotary] = None,
        kept: Optional[int] = None,
    ) -> Tuple[Tensor, BlockMemory]:
        """The forward pass in evaluation, on frames [B, T, D] that follow on those `past` is of.

        `key_bias` and `rotary`: see `SelfAttention.step`. kept: frames after which the next step begins; default: all.
        """
        x = x + 0.5 * self.ffn1(self.ffn1_layer_norm(x))
        y, keys_values = self.attention.step(self.attention_layer_norm(x), past.attention, key_bias, rotary)
        x = x + y
        if kept is not None:
            keys_values = keys_values[:, : keys_values.size(1) - x.size(1) + kept]
        y, convolved = self.conv.step(x, past.conv, kept)
        x = x + y
        x = x + 0.5 * self.ffn2(self.ffn2_layer_norm(x))
        return self.final_layer_norm(x), BlockMemory(keys_values, convolved)
