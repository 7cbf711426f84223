"""Transducer losses that `transducer_loss.py` times: ours, and the ones a user could take instead.

A peer makes the batch's summed -log P of its inputs, for autograd to go on from; `load_peers` leaves out those that are
not installed, with the reason.
"""

import os
from typing import Callable, Dict, List, NamedTuple, Tuple

import torch
from torch import Tensor

from colld_fairseq.losses import prune_ranges, pruned_transducer_loss, simple_transducer_loss, transducer_loss

PRUNE_RANGE = 5


class Case(NamedTuple):
    """Lengths of one batch: frames and labels of each utterance, and the size of the vocabulary."""

    name: str
    frames: List[int]
    counts: List[int]
    vocabulary: int

    @property
    def nodes(self) -> int:
        return sum(t * (u + 1) for t, u in zip(self.frames, self.counts))

    @property
    def padded_nodes(self) -> int:
        return len(self.frames) * max(self.frames) * (max(self.counts) + 1)


class Inputs(NamedTuple):
    """Leaves that get a gradient, and what comes with them."""

    leaves: Tuple[Tensor, ...]
    labels: Tensor
    frames: Tensor
    counts: Tensor


class Peer(NamedTuple):
    step: Callable[[Inputs], Tensor]  # inputs -> summed loss, whose backward pass is timed too
    layout: str  # what its first leaf is: padded, packed or pruned
    slow: bool = False  # few runs suffice
    copies: int = 2  # tensors of the logits' size that it holds at its peak, the logits included


def make_inputs(case: Case, layout: str, device: str, dtype: torch.dtype) -> Inputs:
    """Random logits. `pruned`: am, lm and the logits of the pruned range."""
    generator = torch.Generator(device).manual_seed(0)
    batch, frames, width = len(case.frames), max(case.frames), max(case.counts) + 1
    shapes = {
        "padded": [(batch, frames, width)],
        "packed": [(case.nodes,)],
        "pruned": [(batch, frames), (batch, width), (batch, frames, PRUNE_RANGE)],
    }[layout]
    leaves = tuple(
        torch.empty(*shape, case.vocabulary, device=device, dtype=dtype).normal_(generator=generator).requires_grad_()
        for shape in shapes
    )
    labels = torch.randint(1, case.vocabulary, (batch, width - 1), device=device, generator=generator)
    lengths = (torch.tensor(values, device=device) for values in (case.frames, case.counts))
    return Inputs(leaves, labels, *lengths)


def ours(inputs: Inputs) -> Tensor:
    return transducer_loss(*inputs.leaves, *inputs[1:]).loss_sum


def ours_in_place(inputs: Inputs) -> Tensor:
    return transducer_loss(*inputs.leaves, *inputs[1:], overwrite_logits=True).loss_sum


def ours_pruned(inputs: Inputs) -> Tensor:
    am, lm, logits = inputs.leaves
    simple = simple_transducer_loss(am, lm, *inputs[1:])
    ranges = prune_ranges(simple.blank_posterior, simple.label_posterior, *inputs[2:], PRUNE_RANGE)
    return simple.loss_sum + pruned_transducer_loss(logits, ranges, *inputs[1:]).loss_sum


def autograd_wavefront(inputs: Inputs) -> Tensor:
    """The usual short version: log-softmax, two gathers, one anti-diagonal after the other, all in autograd."""
    (logits,), labels, frames, counts = inputs
    log_probs = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    batch, length, width, _ = log_probs.shape
    blank = log_probs[..., 0]
    label = log_probs[:, :, :-1].gather(3, labels[:, None, :, None].expand(-1, length, -1, 1))[..., 0]
    label = torch.nn.functional.pad(label, (0, 1), value=-1e30)
    u = torch.arange(width, device=logits.device)
    t = torch.arange(length + width - 1, device=logits.device)[:, None] - u  # [D, U+1], of the nodes
    outside = (t < 0) | (t >= length)
    blank_by_diagonal = blank[:, t.clamp(0, length - 1), u].unbind(1)
    label_by_diagonal = label[:, t.clamp(0, length - 1), u].unbind(1)
    alpha = torch.where(u == 0, 0.0, -1e30).to(blank.dtype).expand(batch, -1)
    alphas = [alpha]
    for d in range(1, len(t)):
        stay = alpha + blank_by_diagonal[d - 1]
        move = torch.nn.functional.pad((alpha + label_by_diagonal[d - 1])[:, :-1], (1, 0), value=-1e30)
        alpha = torch.logaddexp(stay, move).masked_fill(outside[d], -1e30)
        alphas.append(alpha)
    b = torch.arange(batch, device=logits.device)
    last = torch.stack(alphas, 1)[b, frames - 1 + counts, counts]
    return -(last + blank[b, frames - 1, counts]).sum()


def load_peers(device: str, threads: int) -> Tuple[Dict[str, Peer], Dict[str, str]]:
    """(peers by name, reasons why others are missing). All of them use ``threads`` threads on a CPU."""
    torch.set_num_threads(threads)
    # numba's first parallel region resizes the thread pool that torch uses too, unless it asks for as many.
    os.environ["NUMBA_NUM_THREADS"] = str(threads)
    peers = {
        "ours": Peer(ours, "padded"),
        "ours, in place": Peer(ours_in_place, "padded", copies=1),
        "ours, packed": Peer(ours, "packed"),
        "ours, pruned": Peer(ours_pruned, "pruned"),
        "autograd wavefront": Peer(autograd_wavefront, "padded", copies=5),
    }
    missing = {}
    try:
        from warprnnt_numba import RNNTLossNumba

        loss = RNNTLossNumba(blank=0, reduction="sum", fastemit_lambda=0.0)

        def warprnnt(inputs: Inputs) -> Tensor:
            return loss(*inputs.leaves, *(x.int() for x in inputs[1:])).sum()

        peers["warprnnt_numba"] = Peer(warprnnt, "padded", slow=device == "cpu", copies=5)
    except Exception as error:  # noqa: BLE001 - numba fails in many ways where it does not fit
        missing["warprnnt_numba"] = f"{type(error).__name__}: {error}"
    try:
        from torchaudio.functional import rnnt_loss

        def torchaudio(inputs: Inputs) -> Tensor:
            (logits,), *rest = inputs
            return rnnt_loss(logits, *(x.int() for x in rest), blank=0, clamp=-1, reduction="sum")

        peers["torchaudio"] = Peer(torchaudio, "padded", copies=3)
    except Exception as error:  # noqa: BLE001 - OSError where its wheel does not fit this torch
        missing["torchaudio"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return peers, missing
