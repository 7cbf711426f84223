"""Lengths to padding masks."""

from typing import Optional

import torch
from torch import Tensor


def lengths_to_padding_mask(lengths: Tensor, max_length: Optional[int] = None) -> Tensor:
    """Padding mask of a batch of sequences.

    Args:
        lengths: ``[B]`` int, valid frames of each sequence.
        max_length: frames of the padded tensor; the longest sequence if not given.

    Returns:
        ``[B, max_length]`` bool, True on padding.

    Raises:
        ValueError: if ``max_length`` is given and a sequence is longer.
    """
    longest = int(lengths.max()) if lengths.numel() else 0
    if max_length is None:
        max_length = longest
    elif longest > max_length:
        raise ValueError(f"a sequence of {longest} frames does not fit into {max_length}")
    return torch.arange(max_length, device=lengths.device)[None, :] >= lengths[:, None]
