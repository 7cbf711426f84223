"""The CoLLD objective: InfoNCE between predicted and teacher frames of one utterance.

CoLLD-style, reconstructed: the paper (2309.07707) was not available in full; negatives, temperature and the treatment
of duplicates follow wav2vec 2.0 / w2v-BERT. For a masked frame t with prediction p_t, teacher frame z_t and negatives
N_t,

    loss_t = -log  e(t, t) / ( e(t, t) + sum_{s in N_t} e(t, s) ),     e(t, s) = exp(cos(p_t, z_s) / temp)

How it is computed. The masked frames of every utterance are packed into [B, M, D] (M = most masked frames in an
utterance) and one batched product gives all similarities [B, M, M]. A frame s drawn c times as a negative of t adds c *
exp(similarity), which is the same as adding log c to its logit: so the sampled negatives are a matrix of log-counts
(-inf = never drawn), the positive is the diagonal, and the loss is a cross-entropy over M classes. Nothing of the size
[frames, N, D] is ever formed, and the log-counts are shared by all layer pairs of a step. The price is 4 * B * M^2
bytes per pair held for the backward pass: 15 MB for one utterance of 80 s, 2 MB for eight of 10 s.
"""

from functools import lru_cache
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor


class NegativePlan(NamedTuple):
    """Which frames are contrasted with which: made once per batch by `sample_negatives`, for all pairs.

    M is the largest number of masked frames in an utterance (1 if nothing is masked). With negatives from the whole
    batch that is one long utterance: then B is 1 in all shapes here but for `shape`.

    - `rows` `[B * M]` int64: position of the packed frames in a tensor `[B * T, ...]`.
    - `labels` `[B * M]` int64: own column of each packed frame, -100 where there is none (padding of the packing).
    - `log_counts` `[B, M, M]` float32: log of how often column s is a negative of row t; 0 on the diagonal (the
      positive), -inf where s is no negative of t.
    - `count`: 0-dim int64, frames that carry loss; `shape`: (B, T) of the mask.
    """

    rows: Tensor
    labels: Tensor
    log_counts: Tensor
    count: Tensor
    shape: torch.Size


class ContrastiveOutput(NamedTuple):
    """`loss_sum`: sum over the frames that count; `count`: how many; `correct`: on how many of them the positive is
    more similar than every negative (both 0-dim int64)."""

    loss_sum: Tensor
    count: Tensor
    correct: Tensor


def sample_negatives(
    mask: Tensor,
    num_negatives: int = 100,
    generator: Optional[torch.Generator] = None,
    min_distance: int = 1,
    from_batch: bool = False,
) -> NegativePlan:
    """Draw the negatives of every masked frame from the other masked frames of its utterance, or of the batch.

    Args:
        mask: `[B, T]` bool, True on the frames that carry loss (never on padding). An utterance with fewer than two of
            them has no negatives and contributes nothing.
        num_negatives: N drawn uniformly with replacement; 0 takes every other masked frame once.
        generator: of the device of `mask`; torch's default one if not given.
        min_distance: frames that a negative of the same utterance is away at least; 1 takes the next ones, too. Of the
            N drawn those that are nearer are left out.
        from_batch: whether other utterances' masked frames are negatives as well.

    Raises ValueError if `mask` is not a bool matrix, `num_negatives` is negative or `min_distance` below 1.
    """
    if mask.dim() != 2 or mask.dtype != torch.bool:
        raise ValueError(f"the mask must be [B, T] bool, not {tuple(mask.shape)} {mask.dtype}")
    if num_negatives < 0:
        raise ValueError(f"num_negatives={num_negatives}: must be positive, or 0 for all others")
    if min_distance < 1:
        raise ValueError(f"min_distance={min_distance}: must be 1 or more, for a frame is no negative of itself")
    shape, device = mask.shape, mask.device
    mask = mask.reshape(1, -1) if from_batch else mask
    batch, frames = mask.shape
    mask = mask & (mask.sum(1, keepdim=True) >= 2)
    masked = mask.sum(1)  # [B]
    most = max(int(masked.max()) if batch else 0, 1)
    columns = torch.arange(most, device=device)
    present = columns[None, :] < masked[:, None]  # [B, M]

    # A stable sort of "not masked" brings the masked frames to the front in their order.
    packed = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)[:, :most]
    rows = packed + torch.arange(batch, device=device)[:, None] * frames
    # Positions without a frame repeat one that has loss: padding may hold anything and must stay outside.
    rows = torch.where(present, rows, mask.flatten().to(torch.uint8).argmax()).flatten()
    labels = torch.where(present, columns[None, :], torch.full_like(columns, -100)[None, :]).flatten()

    diagonal = torch.eye(most, dtype=torch.bool, device=device)
    if num_negatives == 0:
        counts = (present[:, :, None] & present[:, None, :] & ~diagonal).float()
    else:
        others = (masked - 1).clamp_min(1)[:, None, None]
        drawn = (torch.rand(batch, most, num_negatives, generator=generator, device=device) * others).long()
        drawn = torch.minimum(drawn, others - 1)  # float32 may round up to the end of the range
        drawn += drawn >= columns[None, :, None]  # step over the frame itself
        drawn.clamp_max_(most - 1)  # only rows without a frame of their own can lie beyond
        counts = torch.zeros(batch, most, most, device=device)
        counts.scatter_add_(2, drawn, torch.ones((), device=device).expand_as(drawn))
        counts *= present[:, :, None]
    if min_distance > 1:
        # With a gap between utterances, whose frames are never near each other's.
        position = packed + packed // max(shape[1], 1) * min_distance
        near = (position[:, :, None] - position[:, None, :]).abs() < min_distance
        counts.masked_fill_(near, 0.0)
    log_counts = counts.log_().masked_fill_(diagonal, 0.0)
    return NegativePlan(rows, labels, log_counts, masked.sum(), shape)


def contrastive_loss(
    predictions: Tensor, targets: Tensor, plan: NegativePlan, logit_temp: float = 0.1
) -> ContrastiveOutput:
    """InfoNCE of one layer pair.

    A negative whose target vector equals the positive's in every element is left out (logit -inf). A frame that has no
    other negative left is still in `count` with loss 0, and is not correct; nor is a tie with a negative.

    Args:
        predictions, targets: `[B, T, D]` of any float dtype; logits are float32 (float64 for float64 inputs) even under
            autocast. The gradient reaches both; teacher features have none.
        plan: from `sample_negatives` with the mask `[B, T]` of this batch.
        logit_temp: temperature dividing the cosines.

    Raises ValueError if shapes differ from each other or from the plan.
    """
    if predictions.shape != targets.shape or predictions.shape[:2] != plan.shape:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} must be alike and "
            f"begin with the shape of the mask, {tuple(plan.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(predictions.dtype, targets.dtype), torch.float32)
    batch, most = plan.log_counts.shape[:2]
    with torch.autocast(predictions.device.type, enabled=False):
        p = predictions.flatten(0, 1).index_select(0, plan.rows).to(dtype)  # [B * M, D]
        z = targets.flatten(0, 1).index_select(0, plan.rows).to(dtype)
        with torch.no_grad():
            codes = _row_codes(z).view(batch, most)
            duplicate = codes[:, :, None] == codes[:, None, :]  # [B, M, M], true on the diagonal
            offsets = torch.where(duplicate, -torch.inf, plan.log_counts)
            is_negative = offsets > -torch.inf
            offsets.diagonal(dim1=1, dim2=2).zero_()
        # The norms divide the products and not the vectors: for M < D that is less arithmetic, above all in
        # the backward pass, and no normalized copies are kept.
        scale_p = 1.0 / (torch.linalg.vector_norm(p, dim=-1).clamp_min(1e-6) * logit_temp)
        scale_z = 1.0 / torch.linalg.vector_norm(z, dim=-1).clamp_min(1e-6)
        products = torch.bmm(p.view(batch, most, -1), z.view(batch, most, -1).transpose(1, 2))
        similarities = products * (scale_p.view(batch, most, 1) * scale_z.view(batch, 1, most))
        logits = (similarities + offsets).view(batch * most, most)
        loss_sum = F.cross_entropy(logits, plan.labels, ignore_index=-100, reduction="sum")

        with torch.no_grad():
            positive = similarities.diagonal(dim1=1, dim2=2)
            hardest = torch.where(is_negative, similarities, -torch.inf).amax(-1)
            # Rows without a frame have no negatives either, so they drop out here.
            correct = ((positive > hardest) & (hardest > -torch.inf)).sum()
    return ContrastiveOutput(loss_sum, plan.count, correct)


def _row_codes(rows: Tensor) -> Tensor:
    """A 64-bit code of each row of `[R, D]` (float32 or float64): equal rows always have equal codes.

    Comparing M vectors costs M * M * D, comparing codes M * M. Integer arithmetic, because it is exact in any order of
    summation. Different rows share a code once in some 2^48 pairs at worst, and then one negative is missing.
    """
    rows = rows + 0.0  # -0.0 equals 0.0 but has another bit pattern
    if rows.dtype == torch.float32 and rows.shape[1] % 2:
        rows = F.pad(rows, (0, 1))
    bits = rows.view(torch.int64)
    return (bits * _code_weights(bits.shape[1], rows.device)).sum(1)


@lru_cache(maxsize=32)
def _code_weights(width: int, device: torch.device) -> Tensor:
    """`[width]` fixed odd random numbers."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (width,), generator=generator, dtype=torch.int64)
    return (2 * weights + 1).to(device)
