"""CTC (Graves et al. 2006) on padded batches, clips without an alignment left out."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class CtcOutput(NamedTuple):
    """Sum over the clips that have an alignment, target tokens of all clips, and clips without alignment."""

    loss_sum: Tensor
    tokens: int
    too_short: int


def ctc_loss(
    logits: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor, blank: int, pad: int
) -> CtcOutput:
    """-log P of the targets, summed, in float32.

    Clips with fewer frames than their text needs contribute nothing instead of infinity.

    Args:
        logits: [B, T, V], before any softmax.
        lengths: [B] frames.
        targets: [B, U], padded with ``pad``; target_lengths [B].
    """
    log_probs = torch.log_softmax(logits.float(), dim=-1).transpose(0, 1)
    repeats = (targets[:, 1:] == targets[:, :-1]) & (targets[:, 1:] != pad)
    too_short = lengths < target_lengths.to(lengths.device) + repeats.sum(1)
    with torch.backends.cudnn.flags(enabled=False):  # cuDNN's CTC is not deterministic and refuses long targets
        loss = F.ctc_loss(log_probs, targets, lengths, target_lengths, blank, reduction="sum", zero_infinity=True)
    return CtcOutput(loss, int(target_lengths.sum()), int(too_short.sum()))
