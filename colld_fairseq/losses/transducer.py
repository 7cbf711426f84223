"""Transducer (RNN-T) loss in plain PyTorch: full lattice, padded or packed (Graves 2012, arXiv:1211.3711).

-log P(labels | audio), summed over all alignments, with the fused analytic gradient: `transducer_arcs` turns logits
into the log-probabilities of the arcs, `transducer_lattice` sums over the paths. The loss needs the logits, their
gradient and a few tensors of the lattice's size without the vocabulary; `overwrite_logits` saves the gradient's memory
too. `transducer_pruned` evaluates the joiner near the likely alignments only.
"""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .transducer_arcs import LogitLayout, arc_log_probs
from .transducer_lattice import lattice_log_prob


class TransducerOptions(NamedTuple):
    """Keyword arguments that full, simple and pruned loss share."""

    blank: int = 0
    """Index of the blank."""

    topology: str = "regular"
    """`regular`, or `modified` with at most one label per frame (k2's name for it)."""

    fastemit_lambda: float = 0.0
    """FastEmit (Yu et al. 2021, arXiv:2010.11148): the gradient through the label arcs is multiplied by 1 + lambda: it
    asks for early labels. The value of the loss stays -log P."""

    delay_penalty: float = 0.0
    """Adds penalty * ((T - 1) / 2 - t) to the log-probability of every label arc of frame t (k2, Kang et al. 2023,
    arXiv:2211.00490), in the value of the loss too. 0.0015 to 0.01 after the first updates."""

    zero_infinity: bool = False
    """An utterance without any path (too few frames for `modified`, or logits of -inf) is left out, with zero gradient,
    instead of being an error."""


class TransducerOutput(NamedTuple):
    """`loss_sum`: sum over the utterances that count, in nats; `counted`: bool `[B]` which do; `losses`: `[B]` the loss
    of each, with gradient, 0 for those left out; `blank_arcs`, `label_arcs`: `[B, T, U+1]` log-probabilities of the
    arcs that leave each node, with gradient, without delay penalty; `divergences`: `[B]` from a teacher, with gradient,
    where `tiled_transducer_loss` was given one."""

    loss_sum: Tensor
    counted: Tensor
    losses: Tensor
    blank_arcs: Tensor
    label_arcs: Tensor
    divergences: Optional[Tensor] = None

    @property
    def count(self) -> Tensor:
        """How many utterances count, 0-dim int64."""
        return self.counted.sum()


class Targets(NamedTuple):
    """Checked labels and lengths of a batch, from `check_targets`; U is the longest label sequence.

    `next_labels` `[B, U+1]` int64: the label that follows node u, the blank where none does; `logit_lengths`,
    `label_lengths` `[B]` int64 on the labels' device, and the same as lists; `names` of the utterances, for messages.
    """

    next_labels: Tensor
    logit_lengths: Tensor
    label_lengths: Tensor
    frames: List[int]
    label_counts: List[int]
    names: List[str]


def transducer_loss(
    logits: Tensor,
    labels: Tensor,
    logit_lengths: Tensor,
    label_lengths: Tensor,
    *,
    utterance_ids: Optional[Sequence[str]] = None,
    overwrite_logits: bool = False,
    **options,
) -> TransducerOutput:
    """-log P of the labels of each utterance.

    Args:
        logits: output of the joiner before any softmax, any float dtype (the arithmetic is float32 at least): padded
            `[B, T, U+1, V]`, or packed `[sum_b T_b * (U_b + 1), V]` with the utterances one after the other, each frame
            by frame. Contiguous, or they are copied. Padding is never read.
        labels: `[B, U]` int64 without blanks; anything beyond the lengths.
        logit_lengths, label_lengths: `[B]` frames T_b >= 1 and labels U_b >= 0 of each utterance.
        utterance_ids: `[B]` names for error messages; default: their position in the batch.
        overwrite_logits: the backward pass writes the gradient into the memory of `logits`, which nothing else may use.
        options: those of `TransducerOptions`.

    Raises ValueError if shapes, lengths or labels do not fit, or no path exists for an utterance.
    """
    if logits.dim() not in (2, 4):
        raise ValueError(f"logits must be [B, T, U+1, V], or packed [N, V], not {tuple(logits.shape)}")
    chosen = TransducerOptions(**options)
    targets = check_targets(labels, logit_lengths, label_lengths, logits.shape[-1], chosen, utterance_ids)
    widths = [count + 1 for count in targets.label_counts]
    layout = LogitLayout(targets.frames, widths, packed=logits.dim() == 2)
    if layout.packed:
        needed = sum(t * w for t, w in zip(targets.frames, widths))
        if len(logits) != needed:
            raise ValueError(f"packed logits have {len(logits)} rows, the lengths ask for {needed}")
    else:
        check_room(logits, (max(targets.frames, default=0), max(widths, default=0)), "[B, T, U+1, V]", targets)
    with torch.autocast(logits.device.type, enabled=False):
        blank_arcs, label_arcs = arc_log_probs(
            logits.contiguous(), targets.next_labels[:, None], layout, chosen.blank, overwrite_logits
        )
        return TransducerOutput(*path_losses(blank_arcs, label_arcs, targets, chosen), blank_arcs, label_arcs)


def path_losses(
    blank_arcs: Tensor, label_arcs: Tensor, targets: Targets, options: TransducerOptions
) -> Tuple[Tensor, Tensor, Tensor]:
    """Sum, count and losses `[B]` of arcs `[B, T, U+1]`, the delay penalty included."""
    penalized = penalize_delay(label_arcs, targets.logit_lengths, options.delay_penalty)
    log_prob, _, _ = lattice_log_prob(
        blank_arcs, penalized, targets.logit_lengths, targets.label_lengths, options.topology, options.fastemit_lambda
    )
    return collect(log_prob, targets, options.zero_infinity)


def check_targets(
    labels: Tensor,
    logit_lengths: Tensor,
    label_lengths: Tensor,
    vocabulary: int,
    options: TransducerOptions,
    utterance_ids: Optional[Sequence[str]],
) -> Targets:
    """What all transducer losses demand of labels and lengths. See `transducer_loss`."""
    batch, blank = len(labels), options.blank
    if labels.dim() != 2 or logit_lengths.shape != (batch,) or label_lengths.shape != (batch,):
        raise ValueError(
            f"labels {tuple(labels.shape)} must be [B, U], logit_lengths {tuple(logit_lengths.shape)} and "
            f"label_lengths {tuple(label_lengths.shape)} [B]"
        )
    if not 0 <= blank < vocabulary:
        raise ValueError(f"blank={blank} is no index into a vocabulary of {vocabulary}")
    logit_lengths, label_lengths = logit_lengths.to(labels.device).long(), label_lengths.to(labels.device).long()
    frames, counts = torch.stack([logit_lengths, label_lengths]).tolist()
    names = [f"utterance {i}" for i in (utterance_ids if utterance_ids is not None else range(batch))]
    for name, t, u in zip(names, frames, counts):
        if t < 1 or not 0 <= u <= labels.shape[1]:
            raise ValueError(
                f"{name}: {t} frames and {u} labels; there must be at least one frame, and 0 to "
                f"{labels.shape[1]} labels as the tensor has"
            )
        if options.topology == "modified" and t < u and not options.zero_infinity:
            raise ValueError(
                f"{name}: no path, {u} labels in {t} frames with at most one label per frame; drop it from the "
                "training data, use the regular topology, less subsampling, or zero_infinity=True"
            )
    longest = max(counts, default=0)
    labels = labels[:, :longest].long()
    present = torch.arange(longest, device=labels.device) < label_lengths[:, None]
    wrong = present & ((labels < 0) | (labels >= vocabulary) | (labels == blank))
    if wrong.any():
        b, u = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{names[b]}: label {labels[b, u].item()} at position {u}; labels are 0 to {vocabulary - 1} without "
            f"the blank, {blank}"
        )
    next_labels = labels.new_full((batch, longest + 1), blank)
    next_labels[:, :-1] = torch.where(present, labels, blank)
    return Targets(next_labels, logit_lengths, label_lengths, frames, counts, names)


def check_room(tensor: Tensor, needed: Sequence[int], meaning: str, targets: Targets) -> None:
    """Error if a tensor `[B, ..., V]` has another batch size or less room than `needed` after it."""
    batch = len(targets.frames)
    if tensor.shape[0] != batch or any(have < want for have, want in zip(tensor.shape[1:], needed)):
        raise ValueError(
            f"{meaning} of shape {tuple(tensor.shape)} is too small: the lengths ask for "
            f"{(batch, *needed, tensor.shape[-1])}"
        )


def penalize_delay(label_arcs: Tensor, logit_lengths: Tensor, penalty: float) -> Tensor:
    """`[B, T, W]` log-probabilities of label arcs + penalty * ((T_b - 1) / 2 - t)."""
    if penalty == 0.0:
        return label_arcs
    t = torch.arange(label_arcs.shape[1], device=label_arcs.device)
    offset = (logit_lengths[:, None] - 1) / 2 - t
    return label_arcs + penalty * offset[..., None].to(label_arcs.dtype)


def collect(log_prob: Tensor, targets: Targets, zero_infinity: bool) -> Tuple[Tensor, Tensor, Tensor]:
    """Sum, which count, and losses from log P `[B]`; utterances without a path are left out or an error."""
    no_path = torch.isneginf(log_prob)
    if not zero_infinity and no_path.any():
        names = ", ".join(targets.names[b] for b in no_path.nonzero().flatten().tolist())
        raise ValueError(
            f"{names}: no path of non-zero probability, logits of -inf (or a pruned range made for other lengths) rule "
            "out every alignment; repair the joiner, or leave such utterances out with zero_infinity=True"
        )
    losses = (-log_prob).masked_fill(no_path, 0.0)
    return losses.sum(), ~no_path, losses
