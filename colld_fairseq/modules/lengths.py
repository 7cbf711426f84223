"""Lengths to padding masks."""

from typing import Optional

import torch
from torch import Tensor


def lengths_to_padding_mask(lengths: Tensor, frames: Optional[int] = None) -> Tensor:
    """Lengths int [B] -> padding mask bool [B, frames], True on padding; frames: by default the longest length.

    With `frames` given the values of `lengths` are never looked at: reading them would make a GPU wait and torch.export
    fail.
    """
    if frames is None:
        frames = int(lengths.max()) if lengths.numel() else 0
    return torch.arange(frames, device=lengths.device) >= lengths[:, None]


def conv_length(lengths: Tensor, kernel: int, stride: int) -> Tensor:
    """Frames of an unpadded convolution; 0 where the utterance is shorter than the kernel."""
    return (torch.div(lengths - kernel, stride, rounding_mode="floor") + 1).clamp(min=0)
