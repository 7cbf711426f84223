"""Learnt modules that bring teacher frames to a slower student's rate."""

from typing import Tuple

import torch
from torch import Tensor, nn


class ConcatTanh(nn.Module):
    """n stacked teacher frames to one of the teacher's width: z = tanh(W [e_1; ...; e_n] + b).

    The form is that of Yang et al.'s public code (concat_tanh), where recognition trains it together with the teacher.
    Without labels a target that is itself learned would shrink to a constant, so here W learns to keep what is in the
    frames: a second Linear has to restore them from z, and z reaches the student without gradient.
    """

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.encode = nn.Linear(frames * width, width)
        self.decode = nn.Linear(width, frames * width)

    def forward(self, stacked: Tensor) -> Tuple[Tensor, Tensor]:
        """[B, T, n * D] -> (z [B, T, D] without gradient, the frames restored from it [B, T, n * D])."""
        z = torch.tanh(self.encode(stacked.to(self.encode.weight.dtype)))
        return z.detach(), self.decode(z)
