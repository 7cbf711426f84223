"""Regression objectives of the distillation baselines.

    DistilHuBERT, layer-to-layer, USAD   l1 = 1, log_sigmoid_cosine = 1
    FitHuBERT                            mse = 1
    LightHuBERT                          l1 = 1

Sources: 2110.01900, 2506.18843 (USAD), 2207.00555, 2203.15610.
"""

from typing import Dict, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class RegressionOutput(NamedTuple):
    """`loss_sum`: weighted sum over the frames that count; `count`: how many there are (0-dim int64); `parts`: the
    unweighted sum of every term whose weight is not 0, without gradient, for the log."""

    loss_sum: Tensor
    count: Tensor
    parts: Dict[str, Tensor]


def regression_loss(
    predictions: Tensor,
    targets: Tensor,
    mask: Tensor,
    l1: float = 1.0,
    mse: float = 0.0,
    cosine: float = 0.0,
    log_sigmoid_cosine: float = 1.0,
) -> RegressionOutput:
    """Weighted sum of up to four distances between predicted and target frames p and z of width D.

        l1                   1/D * sum_d |p_d - z_d|
        mse                  1/D * sum_d (p_d - z_d)^2
        cosine               1 - cos(p, z)
        log_sigmoid_cosine   -log sigmoid(cos(p, z))

    Args:
        predictions, targets: `[B, T, D]`.
        mask: `[B, T]` bool, True on the frames that count (valid ones, or valid and masked ones). Other frames never
            enter the arithmetic, whatever they hold.
        l1, mse, cosine, log_sigmoid_cosine: weights; a term of weight 0 is not computed.

    Raises ValueError if shapes differ or every weight is 0.
    """
    if predictions.shape != targets.shape or mask.shape != targets.shape[:2]:
        raise ValueError(
            f"predictions {tuple(predictions.shape)}, targets {tuple(targets.shape)} and mask "
            f"{tuple(mask.shape)} must be [B, T, D], [B, T, D] and [B, T]"
        )
    weights = {"l1": l1, "mse": mse, "cosine": cosine, "log_sigmoid_cosine": log_sigmoid_cosine}
    weights = {name: weight for name, weight in weights.items() if weight}
    if not weights:
        raise ValueError("every weight of the regression loss is 0: give at least one term a weight")

    dtype = torch.promote_types(torch.promote_types(predictions.dtype, targets.dtype), torch.float32)
    frames = mask.flatten().nonzero().squeeze(1)
    p = predictions.flatten(0, 1).index_select(0, frames).to(dtype)  # [F, D]
    z = targets.flatten(0, 1).index_select(0, frames).to(dtype)
    width = targets.shape[-1]

    terms = {}
    if "l1" in weights:
        terms["l1"] = F.l1_loss(p, z, reduction="sum") / width
    if "mse" in weights:
        terms["mse"] = F.mse_loss(p, z, reduction="sum") / width
    if "cosine" in weights or "log_sigmoid_cosine" in weights:
        similarity = F.cosine_similarity(p, z, dim=-1)  # [F]
        if "cosine" in weights:
            terms["cosine"] = (1.0 - similarity).sum()
        if "log_sigmoid_cosine" in weights:
            terms["log_sigmoid_cosine"] = -F.logsigmoid(similarity).sum()
    loss_sum = sum(weights[name] * term for name, term in terms.items())
    count = torch.tensor(frames.numel(), device=mask.device)
    return RegressionOutput(loss_sum, count, {name: term.detach() for name, term in terms.items()})
