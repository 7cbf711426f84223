"""Multi-head self-attention on torch's fused kernel, with optional rotary or relative-key positions."""

from typing import Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.positions import RelativeKeyBias, Rotary, apply_rotary


class SelfAttention(nn.Module):
    """Self-attention with one joint projection for query, key and value."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        width, self.heads, self.dropout = config.embed_dim, config.attention_heads, config.attention_dropout
        self.head_dim = width // self.heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.relative_key = None
        if config.position == "relative_key":
            self.relative_key = RelativeKeyBias(self.head_dim, config.max_left_position, config.max_right_position)

    def forward(
        self,
        x: Tensor,
        key_bias: Optional[Tensor] = None,
        rotary: Optional[Rotary] = None,
        utterances: Optional[Sequence[int]] = None,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D]; `key_bias` [B, 1, 1 or T, T] is added to the scores, None = nothing is hidden.

        utterances: frames of each utterance where several follow one another in [1, T, D]; each attends to its own.
        """
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, self.head_dim)
        if rotary is not None:
            query, key = apply_rotary(qkv[:, :, :2], rotary).unbind(2)
            value = qkv[:, :, 2]
        else:
            query, key, value = qkv.unbind(2)
        if utterances is None or len(utterances) == 1:
            y = self.attend(query, key, value, key_bias)
        else:
            parts = zip(query.split(utterances, 1), key.split(utterances, 1), value.split(utterances, 1))
            y = torch.cat([self.attend(*part) for part in parts], dim=1)
        return self.out(y.reshape(batch, length, width))

    def step(
        self, x: Tensor, past: Tensor, key_bias: Optional[Tensor] = None, rotary: Optional[Rotary] = None
    ) -> Tuple[Tensor, Tensor]:
        """Further frames, after `past`: [B, T, D] -> [B, T, D] and the `past` of the next step.

        past: keys and values [B, P, 2, H, head_dim], without positions: so scores depend on nothing but distances
            however long a stream gets. `key_bias` [B or 1, 1, 1 or T, P + T] and `rotary` are of P + T frames.
        """
        batch, length, width = x.shape
        query, *keys_values = self.qkv(x).view(batch, length, 3, self.heads, self.head_dim).unbind(2)
        keys_values = torch.cat((past, torch.stack(keys_values, dim=2)), dim=1)
        key, value = keys_values.unbind(2)
        if rotary is not None:
            key = apply_rotary(key, rotary)
            query = apply_rotary(query, tuple(part[-length:] for part in rotary))
        return self.out(self.attend(query, key, value, key_bias).reshape(batch, length, width)), keys_values

    def attend(self, query: Tensor, key: Tensor, value: Tensor, key_bias: Optional[Tensor] = None) -> Tensor:
        """[B, T, H, head_dim], and two of [B, K, H, head_dim] that end with the same T frames, to the first's shape."""
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        bias = key_bias
        if self.relative_key is not None:
            bias = self.relative_key(query, key.size(2) - query.size(2))
            bias = bias if key_bias is None else bias + key_bias
        y = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0
        )
        return y.transpose(1, 2)
