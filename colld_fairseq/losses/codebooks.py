"""Cross-entropy of several codebooks: the student tells which entry of each codebook a teacher's frame has.

    l(t) = -1/C sum_c log softmax(a_c(t))[i_c(t)]

i_c(t): the index of frame t in codebook c; a_c(t): the student's logits over its K entries, all of one linear head. The
codebooks are predicted independently of each other (as SPEAR, 2510.25955, does; MVQ-KD, 2211.00508, conditions each on
those before it). The mean over codebooks, not the sum: at the start it is log K however many there are.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class CodebookOutput(NamedTuple):
    """`loss_sum`: mean over codebooks, summed over the frames that count; `count`: how many frames there are (0-dim
    int64); `agree`: share of the codebooks whose index has the largest logit, summed over these frames."""

    loss_sum: Tensor
    count: Tensor
    agree: Tensor


def codebook_loss(logits: Tensor, indexes: Tensor, mask: Tensor) -> CodebookOutput:
    """Cross-entropy over all codebooks.

    Args:
        logits: `[B, T, C * K]`, codebook after codebook.
        indexes: `[B, T, C]`, whole numbers from 0 to K - 1 of any dtype.
        mask: `[B, T]` bool, True on the frames that count. Other frames never enter the arithmetic.

    Raises ValueError if shapes differ.
    """
    codebooks = indexes.shape[-1]
    if logits.shape[:2] != mask.shape or indexes.shape[:2] != mask.shape or logits.shape[-1] % codebooks:
        raise ValueError(
            f"logits {tuple(logits.shape)}, indexes {tuple(indexes.shape)} and mask {tuple(mask.shape)} must be"
            " [B, T, C * K], [B, T, C] and [B, T]"
        )
    frames = mask.flatten().nonzero().squeeze(1)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    chosen = logits.flatten(0, 1).index_select(0, frames).to(dtype).unflatten(-1, (codebooks, -1))  # [F, C, K]
    wanted = indexes.flatten(0, 1).index_select(0, frames).long()  # [F, C]
    loss_sum = F.cross_entropy(chosen.flatten(0, 1), wanted.flatten(), reduction="sum") / codebooks
    agree = (chosen.argmax(-1) == wanted).sum() / codebooks
    return CodebookOutput(loss_sum, torch.tensor(frames.numel(), device=mask.device), agree)
