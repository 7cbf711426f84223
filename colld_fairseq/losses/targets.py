"""What the student is asked to predict: teacher features, normalized and averaged."""

from typing import Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

NORMALIZATIONS = ("none", "instance", "layer")


def normalize_targets(
    targets: Tensor, padding_mask: Optional[Tensor] = None, how: str = "none", eps: float = 1e-5
) -> Tensor:
    """Normalize the features of one teacher layer, without regard to other utterances or to padding.

    Args:
        targets: `[B, T, D]`.
        padding_mask: `[B, T]` bool, True on padding; None if there is none.
        how: `"none"`; `"instance"`: every channel of an utterance to mean 0 and variance 1 over its valid frames (it
            removes what all frames share, which otherwise brings all cosines close to 1); `"layer"`: every frame to
            mean 0 and variance 1 over its channels (LayerNorm without weights, as data2vec does).
        eps: added to the variance.

    Returns `[B, T, D]`; for `"none"` the very tensor given, else float32 (or float64) with zeros on padding.
    """
    if how not in NORMALIZATIONS:
        raise ValueError(f"unknown target normalization {how!r}: choose one of {', '.join(NORMALIZATIONS)}")
    if how == "none":
        return targets
    targets = targets.to(torch.promote_types(targets.dtype, torch.float32))
    if padding_mask is None:
        padding_mask = torch.zeros(targets.shape[:2], dtype=torch.bool, device=targets.device)
    padding = padding_mask[:, :, None]
    if how == "layer":
        return F.layer_norm(targets, targets.shape[-1:], eps=eps).masked_fill(padding, 0.0)
    mean, scale = _channel_statistics(targets, padding, eps)
    return (targets - mean).masked_fill(padding, 0.0) * scale


def normalize_alike(
    predictions: Tensor, targets: Tensor, padding_mask: Tensor, how: str, eps: float = 1e-5
) -> Tuple[Tensor, Tensor]:
    """Predictions that are to equal their targets as they are, and the targets: both `[B, T, D]`, normalized alike.

    "instance" takes the statistics of the targets for both. Arguments and errors as of `normalize_targets`.
    """
    normalized = normalize_targets(targets, padding_mask, how, eps)
    if how != "instance":
        return normalize_targets(predictions, padding_mask, how, eps), normalized
    mean, scale = _channel_statistics(targets.to(normalized.dtype), padding_mask[:, :, None], eps)
    return (predictions - mean).masked_fill(padding_mask[:, :, None], 0.0) * scale, normalized


def _channel_statistics(features: Tensor, padding: Tensor, eps: float) -> Tuple[Tensor, Tensor]:
    """Mean [B, 1, D] and 1 / deviation [B, 1, D] of each channel over an utterance; padding [B, T, 1]."""
    frames = (~padding).sum(1, keepdim=True).clamp_min(1)  # [B, 1, 1]
    mean = features.masked_fill(padding, 0.0).sum(1, keepdim=True) / frames
    variance = (features - mean).masked_fill(padding, 0.0).square().sum(1, keepdim=True) / frames
    return mean, torch.rsqrt(variance + eps)


def average_layers(layers: Sequence[Tensor], padding_mask: Optional[Tensor] = None, how: str = "none") -> Tensor:
    """Mean of several teacher layers `[B, T, D]`, each first normalized by `normalize_targets` (data2vec; LightHuBERT:
    the last eight): `[B, T, D]`, float32 (or float64). Raises ValueError if there is none."""
    if not layers:
        raise ValueError("cannot average over an empty range of layers")
    # Layer by layer instead of through a stack: the peak is two layers, not all of them.
    total = 0.0
    for layer in layers:
        layer = normalize_targets(layer, padding_mask, how)
        total = total + layer.to(torch.promote_types(layer.dtype, torch.float32))
    return total / len(layers)
