"""CTC (Graves et al. 2006) on padded batches, utterances without an alignment left out."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class CtcOutput(NamedTuple):
    """Sum over the utterances that have an alignment, their target tokens (an empty target counts as one), and how many
    have none."""

    loss_sum: Tensor
    tokens: int
    too_short: int


def ctc_loss(
    logits: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor, blank: int, pad: int
) -> CtcOutput:
    """-log P of the targets [B, U], padded with `pad`, by logits [B, T, V] of `lengths` [B] frames, summed, in float32.

    Utterances with fewer frames than their text needs contribute nothing instead of infinity: neither loss nor tokens,
    so that the mean is of those that have an alignment.
    """
    log_probs = torch.log_softmax(logits.float(), dim=-1).transpose(0, 1)
    repeats = (targets[:, 1:] == targets[:, :-1]) & (targets[:, 1:] != pad)
    label_lengths = target_lengths.to(lengths.device)
    too_short = lengths < (label_lengths + repeats.sum(1)).clamp_min(1)
    with torch.backends.cudnn.flags(enabled=False):  # cuDNN's CTC is not deterministic and refuses long targets
        loss = F.ctc_loss(log_probs, targets, lengths, target_lengths, blank, reduction="sum", zero_infinity=True)
    tokens = label_lengths.clamp_min(1).masked_fill(too_short, 0)
    return CtcOutput(loss, int(tokens.sum()), int(too_short.sum()))
