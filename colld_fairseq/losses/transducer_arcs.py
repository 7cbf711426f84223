"""From the logits of a transducer to the log-probabilities of the two arcs that leave each lattice node.

Only two of the V log-probabilities of a node matter, that of the blank and that of the next label. So besides the
logits there is one tensor of their size, the gradient. With g_b and g_l the gradients that reach the blank and the
label arc of a node,

    d / d logit_k = g_b [k = blank] + g_l [k = next label] - softmax_k * (g_b + g_l)

For the transducer loss, -g_b and -g_l are the posteriors of the arcs, and this is the fused gradient of warp-transducer
and optimized_transducer. Both passes go through the logits utterance by utterance, in pieces of some frames that stay
in the processor's cache, never touch padding, and the backward pass computes nothing for nodes whose arcs have no
gradient: far from the likely alignments that is most of the lattice. On a CPU the forward pass writes the softmax into
the gradient's memory, so that its exponentials are computed once; on a GPU that would be more traffic to memory than
computing them again, and half precision would lose digits.
"""

import math
from typing import Iterator, List, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits handled at once. On a CPU a piece and its softmax should fit into the second-level cache, on a GPU a
# piece should be large beside the cost of launching a kernel; 2^18 float32 are 1 MB.
PIECE_CPU, PIECE_CUDA = 2**18, 2**25


def piece_size(tensor: Tensor) -> int:
    """How many logits to handle at once on the device of a tensor."""
    return PIECE_CUDA if tensor.is_cuda else PIECE_CPU


class LogitLayout:
    """Where the nodes of each utterance lie in a tensor of logits.

    - *padded*: logits `[B, T, W, V]`, utterance b in `[b, :frames[b], :widths[b]]`;
    - *packed*: logits `[sum_b frames[b] * widths[b], V]`, utterances one after the other, frame by frame.

    `widths[b]` is U_b + 1 for a full lattice and of the pruned range for a pruned one.
    """

    def __init__(self, frames: List[int], widths: List[int], packed: bool):
        self.frames, self.widths, self.packed = frames, widths, packed

    def blocks(self, tensor: Tensor) -> List[Tensor]:
        """Views `[T_b, W_b, V]`, one per utterance."""
        if not self.packed:
            return [tensor[b, :t, :w] for b, (t, w) in enumerate(zip(self.frames, self.widths))]
        parts = tensor.split([t * w for t, w in zip(self.frames, self.widths)])
        return [part.view(t, w, tensor.shape[1]) for part, t, w in zip(parts, self.frames, self.widths)]

    def zero_padding(self, tensor: Tensor) -> None:
        """Write zeros wherever no utterance has a node."""
        if not self.packed:
            for b, (t, w) in enumerate(zip(self.frames, self.widths)):
                tensor[b, t:].zero_()
                tensor[b, :t, w:].zero_()

    def pieces(self, logits: Tensor) -> Iterator[Tuple[int, slice]]:
        """(utterance, frames) of pieces that are handled at once."""
        size = piece_size(logits)
        for b, (t, w) in enumerate(zip(self.frames, self.widths)):
            step = max(size // (w * logits.shape[-1]), 1)
            for start in range(0, t, step):
                yield b, slice(start, min(start + step, t))


def arc_log_probs(
    logits: Tensor, next_labels: Tensor, layout: LogitLayout, blank: int = 0, overwrite_logits: bool = False
) -> Tuple[Tensor, Tensor]:
    """Log-probabilities of the blank and label arcs, `[B, T, W]` each, zero where there is no node.

    Args:
        logits: as `layout` says, of any float dtype; the arithmetic is float32, or float64 for float64.
        next_labels: `[B, T or 1, W]` int64 in [0, V), the label that follows each node; any valid one where none does.
        overwrite_logits: the backward pass writes the gradient into the memory of `logits`. Autograd complains if
            another operation needs their values after that.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    keep_softmax = (
        torch.is_grad_enabled()
        and logits.requires_grad
        and not overwrite_logits
        and logits.dtype == dtype
        and logits.device.type == "cpu"
    )
    return _ArcLogProbs.apply(logits, next_labels, layout, blank, dtype, overwrite_logits, keep_softmax)


class _ArcLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, next_labels, layout, blank, dtype, overwrite_logits, keep_softmax):
        shape = (len(layout.frames), max(layout.frames, default=0), next_labels.shape[2])
        blank_arcs, label_arcs = logits.new_zeros(shape, dtype=dtype), logits.new_zeros(shape, dtype=dtype)
        softmax = torch.empty_like(logits) if keep_softmax else None
        blocks, softmax_blocks = layout.blocks(logits), layout.blocks(softmax) if keep_softmax else None
        for b, rows in layout.pieces(logits):
            here = b, rows, slice(0, layout.widths[b])
            index = _index(next_labels, *here)
            log_arcs = None
            if keep_softmax:
                probs = softmax_blocks[b][rows]
                torch.softmax(blocks[b][rows], -1, out=probs)
                log_arcs = probs[..., blank].log(), probs.gather(2, index)[..., 0].log_()
                if min(x.amin() for x in log_arcs) < math.log(torch.finfo(dtype).tiny):
                    log_arcs = None  # too small for a probability of this type, not for its logarithm
            if log_arcs is None:
                log_probs = torch.log_softmax(blocks[b][rows], -1, dtype=dtype)
                log_arcs = log_probs[..., blank], log_probs.gather(2, index)[..., 0]
            blank_arcs[here], label_arcs[here] = log_arcs
        ctx.save_for_backward(logits, next_labels)
        ctx.softmax, ctx.layout, ctx.blank, ctx.dtype = softmax, layout, blank, dtype
        ctx.overwrite_logits = overwrite_logits
        return blank_arcs, label_arcs

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_blank, grad_label):
        logits, next_labels = ctx.saved_tensors
        layout, logits = ctx.layout, logits.detach()
        softmax, ctx.softmax = ctx.softmax, None  # only once: its memory becomes the gradient
        grad = logits if ctx.overwrite_logits else torch.empty_like(logits) if softmax is None else softmax
        blocks, grad_blocks = layout.blocks(logits), layout.blocks(grad)
        first, end = columns_with_gradient(grad_blank, grad_label)
        total = grad_blank + grad_label
        for b, rows in layout.pieces(logits):
            width = layout.widths[b]
            columns = slice(min(first[b][rows]), min(max(end[b][rows]), width))
            if columns.stop - columns.start > width / 2:  # whole frames are contiguous, which saves two copies
                columns = slice(0, width)
            target, here = grad_blocks[b][rows], (b, rows, columns)
            target[:, : columns.start].zero_()
            target[:, max(columns.start, columns.stop) :].zero_()
            if columns.start >= columns.stop:
                continue
            values = target = target[:, columns]
            if softmax is None:
                out = target if grad.dtype == ctx.dtype else None
                values = torch.softmax(blocks[b][rows, columns], -1, dtype=ctx.dtype, out=out)
            values.mul_(-total[here][..., None])
            values[..., ctx.blank] += grad_blank[here]
            values.scatter_add_(2, _index(next_labels, *here), grad_label[here][..., None])
            if values.dtype != target.dtype:
                target.copy_(values)
        layout.zero_padding(grad)
        return grad, None, None, None, None, None, None


def _index(next_labels: Tensor, b: int, rows: slice, columns: slice) -> Tensor:
    """`[rows, columns, 1]`: next labels of a piece of utterance b."""
    labels = next_labels[b, :, columns] if next_labels.shape[1] == 1 else next_labels[b, rows, columns]
    return labels.expand(rows.stop - rows.start, -1)[..., None]


def columns_with_gradient(grad_blank: Tensor, grad_label: Tensor) -> Tuple[List[List[int]], List[List[int]]]:
    """First column of each frame whose arcs have a gradient, and the one after the last, `[B][T]`.

    (W, 0) where there is none. NaN is a gradient.
    """
    active = (grad_blank != 0) | (grad_label != 0)
    width = active.shape[2]
    columns = torch.arange(width, device=active.device)
    first = torch.where(active, columns, width).amin(2)
    end = torch.where(active, columns + 1, 0).amax(2)
    return tuple(torch.stack([first, end]).tolist())
