"""Multi-head self-attention on torch's fused kernel, with optional rotary or relative-key positions."""

from typing import Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colld_fairseq.modules.positions import RelativeKeyBias, Rotary, apply_rotary


class SelfAttention(nn.Module):
    """Self-attention with one joint projection for query, key and value.

    Args:
        embed_dim: width D, a multiple of ``heads``.
        dropout: dropout on the attention weights, in training.
        relative_key: ``(max_left, max_right)`` frames to learn Shaw-style relative keys, or None.
    """

    def __init__(
        self, embed_dim: int, heads: int, dropout: float = 0.0, relative_key: Optional[tuple] = None
    ):
        super().__init__()
        self.heads, self.head_dim, self.dropout = heads, embed_dim // heads, dropout
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)
        self.relative_key = RelativeKeyBias(self.head_dim, *relative_key) if relative_key else None

    def forward(
        self,
        x: Tensor,
        key_bias: Optional[Tensor] = None,
        rotary: Optional[Rotary] = None,
        clips: Optional[Sequence[int]] = None,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D]; ``key_bias`` [B, 1, 1, T] is added to the scores, None = no padding.

        clips: frames of the clips that stand behind one another in [1, T, D], each of which attends to itself.
        """
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, self.head_dim)
        if rotary is not None:
            query, key = apply_rotary(qkv[:, :, :2], rotary).unbind(2)
            value = qkv[:, :, 2]
        else:
            query, key, value = qkv.unbind(2)
        if clips is None or len(clips) == 1:
            y = self.attend(query, key, value, key_bias)
        else:
            parts = zip(query.split(clips, 1), key.split(clips, 1), value.split(clips, 1))
            y = torch.cat([self.attend(*part) for part in parts], dim=1)
        return self.out(y.reshape(batch, length, width))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, key_bias: Optional[Tensor] = None) -> Tensor:
        """Three of [B, T, H, head_dim] -> the same shape."""
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        bias = key_bias
        if self.relative_key is not None:
            bias = self.relative_key(query)
            bias = bias if key_bias is None else bias + key_bias
        y = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0
        )
        return y.transpose(1, 2)
