"""Depthwise convolution over time on [B, T, D]."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseConv(nn.Module):
    """One filter of `kernel` frames per channel, no bias; `causal` = past frames only, else centered.

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
