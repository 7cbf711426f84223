"""Dropout whose random bits are cheap on a CPU.

torch draws one Bernoulli sample per element from a serial generator, which on a CPU costs more than the
matrix product beside it in a small student. Sixteen bits per element are enough for a dropout probability, so
one 64-bit draw serves four elements.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each element with probability `p` and scale the others by `1 / (1 - p)`.

    On a CPU `p` is rounded to a multiple of 2^-16 (the scale uses the rounded value, so the mean is kept). The bits
    come from torch's default generator, so that a seed fixes them. Elsewhere this is `torch.nn.functional.dropout`.
    """
    if not training or p == 0.0:
        return x
    dropped = round(p * 65536)
    if x.device.type != "cpu" or dropped >= 65536 or torch.compiler.is_compiling():
        return F.dropout(x, p, True)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    keep = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 32768
    return x * (keep * (65536.0 / (65536 - dropped))).to(x.dtype)


class Dropout(nn.Module):
    """`dropout` as a module, so that printing a model shows its probabilities."""

    def __init__(self, p: float = 0.0):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"
