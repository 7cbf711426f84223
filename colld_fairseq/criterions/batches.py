"""What the distillation criterions hand around: a batch on the shared frames, and sums for the log."""

from typing import Any, Dict, List, NamedTuple

import torch
from torch import Tensor


class Frames(NamedTuple):
    """A batch on the frames that student and teacher share, T of them in the longest clip.

    predictions, targets: K tensors [B, T, D]; weights: of the K layer pairs; valid, masked: bool [B, T], the frames
    that count and those of them whose input was masked; features: teacher layer -> [B, T, D]; output: the student's.
    """

    predictions: List[Tensor]
    targets: List[Tensor]
    weights: List[float]
    valid: Tensor
    masked: Tensor
    features: Dict[int, Tensor]
    output: Any


def logging_output(
    sample: Dict, loss: Tensor, sample_size: Tensor, terms: Dict, valid: Tensor, masked: Tensor
) -> Dict[str, Any]:
    """Sums over a batch, for `reduce_metrics`: the loss, its terms, and what they were computed on."""
    terms = {name: value.detach() if torch.is_tensor(value) else value for name, value in terms.items()}
    return dict(
        terms,
        loss=loss.detach(),
        sample_size=sample_size,
        ntokens=sample["ntokens"],
        nsentences=sample["nsentences"],
        audio_seconds=sample["audio_seconds"],
        masked_frames=masked.sum(),
        valid_frames=valid.sum(),
    )


def sum_logs(logging_outputs) -> Dict[str, float]:
    totals: Dict[str, float] = {}
    for log in logging_outputs:
        for name, value in log.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    return totals
