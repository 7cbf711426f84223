"""Normalization whose statistics ignore padded frames."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskedChannelNorm(nn.Module):
    """Group norm with one group per channel over the valid frames of each utterance.

    The first convolution of wav2vec 2.0 Base and HuBERT Base has it. torch's GroupNorm counts padded frames,
    so that an utterance's features depend on what else is in its batch; without padding the two are equal.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.channels, self.eps = channels, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """[B, C, T], mask [B, T] (True on padding) or None when no utterance is padded -> [B, C, T]."""
        if padding_mask is None:
            return F.group_norm(x, self.channels, self.weight, self.bias, self.eps)
        dtype = x.dtype
        # Sums over thousands of frames do not fit half precision.
        with torch.autocast(x.device.type, enabled=False):
            x = x if dtype == torch.float64 else x.float()
            valid = (~padding_mask).to(x.dtype).unsqueeze(-1)
            count = valid.sum(1, keepdim=True).clamp(min=1.0)
            x = x - torch.bmm(x, valid) / count
            scale = self.weight[:, None] * torch.rsqrt(torch.bmm(x.square(), valid) / count + self.eps)
            return torch.addcmul(self.bias[:, None].to(x.dtype), x, scale).to(dtype)
