"""Pruned transducer loss (Kuang et al. 2022, arXiv:2206.13236): the joiner runs near the likely alignments only.

1. `simple_transducer_loss`: a transducer whose joiner is an addition, am_t + lm_u, both of them linear projections to
   the vocabulary. Its loss is trained too, and its arc posteriors cost one matrix product.
2. `prune_ranges`: for every frame the S successive nodes that hold most of the posterior.
3. `gather_ranges` takes the predictor's output there, and the real joiner makes logits [B, T, S, V].
4. `pruned_transducer_loss` of those; nodes outside the range have probability 0.

k2's recipes add them up as 0.5 * simple + 1.0 * pruned, after 2000 updates that move there from 1.0 and 0.1.
With S = U + 1 the range is the whole lattice and the pruned loss is `transducer_loss`.

The simple joiner makes no logits of the size T * U * V: log softmax_k(am_t + lm_u) = am_t[k] + lm_u[k] - n(t, u), and
the normalizer is a matrix product,

    n(t, u) = log sum_k exp(am_t[k] - max am_t) exp(lm_u[k] - max lm_u) + max am_t + max lm_u.

Where am_t and lm_u peak far apart every summand underflows: n of such a node is computed in full. With g_n = -(g_blank
+ g_label) the gradient that reaches n(t, u) and e^am, e^lm the factors above, the gradient of am is e^am_t * sum_u (g_n
/ product)(t, u) e^lm_u, and the same the other way round: two more products. One utterance is handled at a time, and
only am, lm and the products `[B, T, U+1]` are kept for the backward pass.
"""

from typing import Iterator, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .transducer import (
    Targets,
    TransducerOptions,
    TransducerOutput,
    check_room,
    check_targets,
    collect,
    path_losses,
    penalize_delay,
)
from .transducer_arcs import LogitLayout, arc_log_probs, piece_size
from .transducer_lattice import lattice_log_prob


class SimpleTransducerOutput(NamedTuple):
    """`loss_sum`, `counted` and `losses` as in `TransducerOutput`; `blank_posterior` and `label_posterior` `[B, T,
    U+1]`: of the arcs that leave each node, for `prune_ranges`, without gradient. T and U are the batch's longest."""

    loss_sum: Tensor
    counted: Tensor
    losses: Tensor
    blank_posterior: Tensor
    label_posterior: Tensor

    count = TransducerOutput.count  # type: ignore[misc]  # a property, no field


def simple_transducer_loss(
    am: Tensor,
    lm: Tensor,
    labels: Tensor,
    logit_lengths: Tensor,
    label_lengths: Tensor,
    *,
    lm_only_scale: float = 0.0,
    utterance_ids: Optional[Sequence[str]] = None,
    **options,
) -> SimpleTransducerOutput:
    """-log P of the labels with log P(k | t, u) = log softmax_k(am_t + lm_u).

    Args:
        am: `[B, T, V]` projection of the encoder's output, any float dtype.
        lm: `[B, U+1, V]` projection of the predictor's output.
        lm_only_scale: s in (1 - s) * log P(k | t, u) + s * log softmax_k(lm_u), which takes the place of log P: it
            keeps lm a language model and the bounds from chasing am alone. k2's recipes use 0.25.
        the others: as for `transducer_loss`, with the same errors.
    """
    if am.dim() != 3 or lm.dim() != 3 or am.shape[2] != lm.shape[2]:
        raise ValueError(f"am {tuple(am.shape)} and lm {tuple(lm.shape)} must be [B, T, V] and [B, U+1, V]")
    chosen = TransducerOptions(**options)
    targets = check_targets(labels, logit_lengths, label_lengths, am.shape[2], chosen, utterance_ids)
    width = targets.next_labels.shape[1]
    check_room(am, (max(targets.frames, default=0),), "am [B, T, V]", targets)
    check_room(lm, (width,), "lm [B, U+1, V]", targets)
    with torch.autocast(am.device.type, enabled=False):
        blank_arcs, label_arcs = simple_arc_log_probs(am, lm, targets, chosen.blank)
        if lm_only_scale:
            log_probs = lm[:, :width].log_softmax(-1, dtype=blank_arcs.dtype)  # [B, U+1, V]
            lm_blank = log_probs[:, None, :, chosen.blank]
            lm_label = log_probs.gather(2, targets.next_labels[..., None])[:, None, :, 0]
            blank_arcs = (1 - lm_only_scale) * blank_arcs + lm_only_scale * lm_blank
            label_arcs = (1 - lm_only_scale) * label_arcs + lm_only_scale * lm_label
        label_arcs = penalize_delay(label_arcs, targets.logit_lengths, chosen.delay_penalty)
        log_prob, *posteriors = lattice_log_prob(
            blank_arcs,
            label_arcs,
            targets.logit_lengths,
            targets.label_lengths,
            chosen.topology,
            chosen.fastemit_lambda,
            posteriors=True,
        )
        return SimpleTransducerOutput(*collect(log_prob, targets, chosen.zero_infinity), *posteriors)


@torch.no_grad()
def prune_ranges(
    blank_posterior: Tensor,
    label_posterior: Tensor,
    logit_lengths: Tensor,
    label_lengths: Tensor,
    prune_range: int = 5,
    topology: str = "regular",
) -> Tensor:
    """The nodes u at which the joiner is evaluated, `[B, T, S]` int64: S successive ones for every frame.

    The window of frame t begins at the s for which the posterior inside, sum_{u=s}^{s+S-1} blank(t, u) - label(t, s-1),
    is largest. Then the windows are made into a range that holds a path: it begins at 0, never goes back, moves by less
    than S per frame (by at most 1 in the `modified` topology, where more labels per frame than that cannot be emitted),
    and ends at U_b. Frames beyond an utterance's length repeat its last window.

    Args:
        blank_posterior, label_posterior: `[B, T, U+1]` from `simple_transducer_loss`.
        logit_lengths, label_lengths: `[B]`.
        prune_range: S, at least 2 (else ValueError). Where labels are too many for it, S * T_b < U_b + T_b, the
            smallest S that leads to U_b is taken for the whole batch; and never more than U + 1.
    """
    if prune_range < 2:
        raise ValueError(f"prune_range={prune_range}: a range of fewer than 2 nodes cannot emit a label")
    _, frames, width = blank_posterior.shape
    device = blank_posterior.device
    logit_lengths, label_lengths = logit_lengths.to(device).long(), label_lengths.to(device).long()
    if topology == "regular":
        rise = (label_lengths + logit_lengths - 1).div(logit_lengths, rounding_mode="floor")
        prune_range = max(prune_range, int(rise.max()) + 1)
    size = min(prune_range, width)

    inside = torch.nn.functional.pad(blank_posterior.cumsum(2), (1, 0)).unfold(2, size + 1, 1)  # [B, T, W-S+1, S+1]
    gain = inside[..., -1] - inside[..., 0]
    gain[:, :, 1:] -= label_posterior[:, :, : width - size]
    start = torch.arange(width - size + 1, device=device)
    last = (label_lengths - size + 1).clamp_min(0)[:, None]  # [B, 1] where the window of the last frame begins
    begin = gain.masked_fill_(start > last[..., None], -torch.inf).argmax(2)
    t = torch.arange(frames, device=device)
    begin = torch.where(t >= logit_lengths[:, None] - 1, last, begin)

    begin = _reverse_cummin(begin)
    slope = (size - 1 if topology == "regular" else 1) * t
    begin = slope - _reverse_cummin(slope - begin).clamp_min(0)
    return begin[..., None] + torch.arange(size, device=device)


def _reverse_cummin(values: Tensor) -> Tensor:
    """`[B, T]`: minimum over this and all later frames."""
    return values.flip(1).cummin(1).values.flip(1)


def gather_ranges(predictor: Tensor, ranges: Tensor) -> Tensor:
    """`[B, T, S, D]`: the predictor's output `[B, U+1, D]` at the nodes of `ranges` `[B, T, S]`."""
    batch, width, _ = predictor.shape
    rows = ranges + width * torch.arange(batch, device=ranges.device)[:, None, None]
    return predictor.flatten(0, 1).index_select(0, rows.flatten()).view(*ranges.shape, predictor.shape[2])


def pruned_transducer_loss(
    logits: Tensor,
    ranges: Tensor,
    labels: Tensor,
    logit_lengths: Tensor,
    label_lengths: Tensor,
    *,
    utterance_ids: Optional[Sequence[str]] = None,
    overwrite_logits: bool = False,
    **options,
) -> TransducerOutput:
    """-log of the probability of all alignments inside the pruned range; never less than the full loss.

    Args:
        logits: `[B, T, S, V]`, the joiner's output at node (t, ranges[b, t, s]).
        ranges: `[B, T, S]` from `prune_ranges` with the same lengths and topology; ValueError for those of another
            batch.
        the others: as for `transducer_loss`, with the same errors.

    Arcs of nodes outside the range are -inf in its output.
    """
    if logits.dim() != 4 or ranges.shape != logits.shape[:3]:
        raise ValueError(f"logits {tuple(logits.shape)} must be [B, T, S, V], ranges {tuple(ranges.shape)} [B, T, S]")
    chosen = TransducerOptions(**options)
    targets = check_targets(labels, logit_lengths, label_lengths, logits.shape[3], chosen, utterance_ids)
    frames, size = max(targets.frames, default=0), ranges.shape[2]
    check_room(logits, (frames,), "logits [B, T, S, V]", targets)
    ranges = ranges[:, :frames]
    batch, width = targets.next_labels.shape
    if ranges.numel() and not 0 <= ranges.amin() <= ranges.amax() < width:
        raise ValueError(f"ranges lead to node {int(ranges.amax())}, but no utterance has more than {width - 1} labels")
    next_labels = targets.next_labels[:, None].expand(-1, frames, -1).gather(2, ranges)
    with torch.autocast(logits.device.type, enabled=False):
        layout = LogitLayout(targets.frames, [size] * batch, packed=False)
        arcs = arc_log_probs(logits.contiguous(), next_labels, layout, chosen.blank, overwrite_logits)
        blank_arcs, label_arcs = (
            arcs_inside.new_full((batch, frames, width), -torch.inf).scatter(2, ranges, arcs_inside)
            for arcs_inside in arcs
        )
        return TransducerOutput(*path_losses(blank_arcs, label_arcs, targets, chosen), blank_arcs, label_arcs)


def simple_arc_log_probs(am: Tensor, lm: Tensor, targets: Targets, blank: int = 0) -> Tuple[Tensor, Tensor]:
    """Log-probabilities of the blank and label arcs, `[B, T, U+1]` each, zero where there is no arc.

    am and lm are `[B, T, V]` and `[B, U+1, V]`, or larger, of any float dtype; the arithmetic is float32, or float64.
    """
    return _SimpleArcLogProbs.apply(am, lm, targets.next_labels, targets.frames, targets.label_counts, blank)


class _SimpleArcLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, am, lm, next_labels, frames, counts, blank):
        dtype = torch.promote_types(torch.promote_types(am.dtype, lm.dtype), torch.float32)
        shape = (len(frames), max(frames, default=0), next_labels.shape[1])
        blank_arcs, label_arcs, products = (am.new_zeros(shape, dtype=dtype) for _ in range(3))
        ctx.underflows = {}
        for b, (t, u) in enumerate(zip(frames, counts)):
            x, z, y = am[b, :t].to(dtype), lm[b, : u + 1].to(dtype), next_labels[b, :u]
            x_max, z_max = x.amax(1, keepdim=True), z.amax(1, keepdim=True)
            product = (x - x_max).exp_() @ (z - z_max).exp_().T  # [T, U+1]
            normalizer = product.log() + x_max + z_max.T
            low = product < _smallest_product(dtype)
            if low.any():
                ctx.underflows[b] = low.nonzero().unbind(1)
                for rows, columns in _pieces(ctx.underflows[b], x):
                    normalizer[rows, columns] = (x[rows] + z[columns]).logsumexp(1)
                product.masked_fill_(low, torch.inf)  # takes no part in the gradient's products
            products[b, :t, : u + 1] = product
            blank_arcs[b, :t, : u + 1] = x[:, blank, None] + z[:, blank] - normalizer
            label_arcs[b, :t, :u] = x[:, y] + z[:u].gather(1, y[:, None])[:, 0] - normalizer[:, :u]
        ctx.save_for_backward(am, lm, next_labels, products)
        ctx.frames, ctx.counts, ctx.blank = frames, counts, blank
        return blank_arcs, label_arcs

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_blank, grad_label):
        with torch.autocast(grad_blank.device.type, enabled=False):  # the caller may be inside one
            return (*_gradients(ctx, grad_blank, grad_label), None, None, None, None)


def _gradients(ctx, grad_blank: Tensor, grad_label: Tensor) -> Tuple[Tensor, Tensor]:
    """Of am and lm."""
    am, lm, next_labels, products = ctx.saved_tensors
    grad_am, grad_lm = torch.zeros_like(am), torch.zeros_like(lm)
    for b, (t, u) in enumerate(zip(ctx.frames, ctx.counts)):
        x, z, y = am[b, :t].to(products.dtype), lm[b, : u + 1].to(products.dtype), next_labels[b, :u]
        to_blank, to_label = grad_blank[b, :t, : u + 1], grad_label[b, :t, :u]
        to_normalizer = -to_blank - grad_label[b, :t, : u + 1]
        ratio = to_normalizer / products[b, :t, : u + 1]
        e_x, e_z = (x - x.amax(1, keepdim=True)).exp_(), (z - z.amax(1, keepdim=True)).exp_()
        x_grad, z_grad = (ratio @ e_z).mul_(e_x), (ratio.T @ e_x).mul_(e_z)
        for rows, columns in _pieces(ctx.underflows.get(b), x):
            softmax = (x[rows] + z[columns]).softmax(1).mul_(to_normalizer[rows, columns, None])
            x_grad.index_add_(0, rows, softmax)
            z_grad.index_add_(0, columns, softmax)
        x_grad[:, ctx.blank] += to_blank.sum(1)
        z_grad[:, ctx.blank] += to_blank.sum(0)
        x_grad.index_add_(1, y, to_label)
        z_grad[:u].scatter_add_(1, y[:, None], to_label.sum(0)[:, None])
        grad_am[b, :t], grad_lm[b, : u + 1] = x_grad, z_grad
    return grad_am, grad_lm


def _smallest_product(dtype: torch.dtype) -> float:
    """Below it the largest of up to 10^8 summands may be a subnormal number, or 0."""
    return torch.finfo(dtype).tiny * 1e8


def _pieces(nodes, like: Tensor) -> Iterator[Tuple[Tensor, Tensor]]:
    """(frames, columns) of some nodes at a time, so that [nodes, V] stays small."""
    if nodes is not None:
        step = max(piece_size(like) // like.shape[1], 1)
        yield from zip(*(part.split(step) for part in nodes))
