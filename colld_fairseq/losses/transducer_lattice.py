"""Sum over all alignments of a transducer, given the log-probabilities of the arcs of its lattice.

Node (t, u) of the lattice: t frames consumed, u labels emitted. A *blank* arc leads from (t, u) to (t+1, u). A *label*
arc leads to (t, u+1) in the `regular` topology (any number of labels per frame) and to (t+1, u+1) in the `modified` one
(at most one label per frame, so T >= U is needed). Every alignment begins at (0, 0) and ends at (T, U); in the regular
topology its last arc is therefore a blank. With a and b the log-probabilities of getting to a node and from a node to
the end (Graves 2012),

    a(t, u) = LSE( a(t-1, u) + blank(t-1, u),  a(source of the label arc) + label(source) ),   log P = a(T, U)
    posterior of an arc = exp( a(source) + arc + b(destination) - log P ) = d log P / d arc

How it is computed. All nodes of an anti-diagonal t + u (regular) or of a frame (modified) depend only on the step
before, so a step is three operations on `[U+1, N]`. Shorter utterances are extended to the corner of the longest by one
path of probability 1; then the backward variable is the forward variable of the lattice read from its end, and both run
as one recursion with N = 2 B. The arcs are laid out step by step through a skewed view, without index tensors.
Per-frame cumulative logsumexp along u, the other way to vectorize, took 5 to 10 times as long on a CPU and loses digits
where a label is very unlikely.

The recursion runs in float64: log P grows with the length of the utterance, and in float32 the posteriors of a 30 s
utterance would be right to two or three digits only. Its tensors are of size T * U, without the vocabulary, and live
only during the forward pass, before the gradient of the logits is allocated.
"""

from typing import Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TOPOLOGIES = ("regular", "modified")


def lattice_log_prob(
    blank: Tensor,
    label: Tensor,
    logit_lengths: Tensor,
    label_lengths: Tensor,
    topology: str = "regular",
    fastemit_lambda: float = 0.0,
    posteriors: bool = False,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Log-probability of the label sequences, and the posteriors of all arcs.

    Args:
        blank, label: `[B, T, U+1]` log-probabilities (float32 or float64) of the arcs that leave each node;
            `label[..., U]` and everything beyond the lengths may hold anything.
        logit_lengths, label_lengths: `[B]` int64, frames and labels of each utterance, at most T and U.
        fastemit_lambda: the gradient that reaches `label` is multiplied by 1 + this (FastEmit, Yu et al. 2021, equation
            12); values stay as they are.
        posteriors: compute them even where no gradient is asked for.

    Returns log P `[B]` (-inf where there is no path), and the posteriors of the blank and of the label arcs `[B, T,
    U+1]`, without gradient, zero outside the lattice and where there is no path; empty if they were not computed.
    """
    if topology not in TOPOLOGIES:
        raise ValueError(f"topology {topology!r}: must be one of {', '.join(TOPOLOGIES)}")
    posteriors = posteriors or (torch.is_grad_enabled() and (blank.requires_grad or label.requires_grad))
    return _LatticeLogProb.apply(
        blank, label, logit_lengths, label_lengths, int(topology == "regular"), fastemit_lambda, posteriors
    )


class _LatticeLogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx, blank, label, logit_lengths, label_lengths, skew, fastemit_lambda, posteriors):
        log_prob, *arc_posteriors = _run(blank, label, logit_lengths, label_lengths, skew, posteriors)
        ctx.save_for_backward(*arc_posteriors)
        ctx.mark_non_differentiable(*arc_posteriors)
        ctx.label_scale = 1.0 + fastemit_lambda
        return (log_prob, *arc_posteriors)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        blank_posterior, label_posterior = ctx.saved_tensors
        grad = grad[:, None, None]
        return (grad * blank_posterior, (ctx.label_scale * grad) * label_posterior, *[None] * 5)


def _run(
    blank: Tensor, label: Tensor, logit_lengths: Tensor, label_lengths: Tensor, skew: int, posteriors: bool
) -> Tuple[Tensor, Tensor, Tensor]:
    """Both recursions. `skew`: steps that a label costs besides those of its frame, 1 in the regular
    topology and 0 in the modified one."""
    batch, frames, width = blank.shape
    steps, columns = frames + skew * (width - 1), batch * (2 if posteriors else 1)
    stay = blank.new_full((steps, width, columns), -torch.inf, dtype=torch.float64)
    move = torch.full_like(stay, -torch.inf)  # indexed by the node it leads to
    stay_arcs, move_arcs = _by_node(stay, batch, frames, skew)[0], _by_node(move, batch, frames, skew)[1]

    t = torch.arange(frames, device=blank.device)[None, :, None]
    u = torch.arange(width, device=blank.device)[None, None, :]
    frames_of, labels_of = logit_lengths[:, None, None], label_lengths[:, None, None]
    inside = (t < frames_of) & (u <= labels_of)
    emits = ((t < frames_of) & (u < labels_of))[:, :, :-1]
    # The path of probability 1 from (T_b, U_b) to the corner: first along t, then along u in a row T of its
    # own. In the modified topology there is no way along u, and the end is read at U_b.
    beyond = torch.zeros_like(stay_arcs).masked_fill_((t < frames_of) | (u != labels_of), -torch.inf)
    stay_arcs.copy_(torch.where(inside, blank.double(), beyond))
    move_arcs[:, :frames].copy_(label[:, :, :-1].double().masked_fill_(~emits, -torch.inf))
    if skew:
        move_arcs[:, frames].masked_fill_(u[0, :, :-1] >= labels_of[:, 0], 0.0)
    end = torch.full_like(label_lengths, width - 1) if skew else label_lengths

    states = stay.new_full((steps + 1, width + 1, columns), -torch.inf)  # row 0 is left of u = 0
    states[0, 1, :batch] = 0.0
    if posteriors:
        stay[:, :, batch:] = stay[:, :, :batch].flip(0, 1)
        move[:, 1:, batch:] = move[:, 1:, :batch].flip(0, 1)
        states[0, 1:, batch:].scatter_(0, (width - 1 - end)[None], 0.0)
    _scan(states, stay, move)
    log_prob = states[steps, 1:, :batch].gather(0, end[None])[0]
    if not posteriors:
        return log_prob.to(blank.dtype), blank.new_empty(0), blank.new_empty(0)

    onwards = states[:steps, 1:, batch:].flip(0, 1).sub_(log_prob)  # from the arcs' ends on, less log P
    stay[:, :, :batch].add_(onwards).add_(states[:steps, 1:, :batch])
    move[:, :, :batch].add_(onwards).add_(states[:steps, :-1, :batch])
    no_path = torch.isneginf(log_prob)[:, None, None]
    blank_posterior, label_posterior = torch.empty_like(blank), torch.full_like(label, -torch.inf)
    blank_posterior.copy_(stay_arcs).masked_fill_(~inside | no_path, -torch.inf)
    label_posterior[:, :, :-1].copy_(move_arcs[:, :frames]).masked_fill_(~emits | no_path, -torch.inf)
    # What vanishes beside the rest of its frame (they add up to 1) becomes an exact zero, which
    # the gradient of the logits then leaves out.
    negligible = torch.finfo(blank.dtype).eps ** 2
    for posterior in (blank_posterior, label_posterior):
        posterior.exp_().masked_fill_(posterior < negligible, 0.0)
    return log_prob.to(blank.dtype), blank_posterior, label_posterior


def _by_node(steps: Tensor, batch: int, frames: int, skew: int) -> Tuple[Tensor, Tensor]:
    """Views of `[D, U+1, N]` by the node (t, u) that an arc leaves: as a stay `[B, T, U+1]` and as a move
    to u+1 `[B, T + skew, U]`. The step is d = t + skew * u."""
    _, width, columns = steps.shape
    strides = (1, width * columns, (skew * width + 1) * columns)
    stay = steps.as_strided((batch, frames, width), strides)
    return stay, steps.as_strided((batch, frames + skew, width - 1), strides, columns)


def _scan(states: Tensor, stay: Tensor, move: Tensor) -> None:
    """The recursion: fills `states[1:]`.

    state_{d+1}[u] = LSE( state_d[u] + stay_d[u], state_d[u-1] + move_d[u] )
    """
    here, left = states[:, 1:].unbind(0), states[:, :-1].unbind(0)
    a, b = torch.empty_like(here[0]), torch.empty_like(here[0])
    for d, (stay_d, move_d) in enumerate(zip(stay.unbind(0), move.unbind(0))):
        torch.add(here[d], stay_d, out=a)
        torch.add(left[d], move_d, out=b)
        torch.logaddexp(a, b, out=here[d + 1])
