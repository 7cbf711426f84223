"""Arc log-probabilities of a transducer whose joiner is an addition, without logits of the size T * U * V.

log softmax_k(am_t + lm_u) = am_t[k] + lm_u[k] - n(t, u), and the normalizer is a matrix product,

    n(t, u) = log sum_k exp(am_t[k] - max am_t) exp(lm_u[k] - max lm_u) + max am_t + max lm_u.

Where am_t and lm_u peak far apart every summand underflows: n of such a node is computed in full. With g_n = -(g_blank
+ g_label) the gradient that reaches n(t, u) and e^am, e^lm the factors above, the gradient of am is e^am_t * sum_u (g_n
/ product)(t, u) e^lm_u, and the same the other way round: two more products. One utterance is handled at a time, and
only am, lm and the products `[B, T, U+1]` are kept for the backward pass.
"""

from typing import Iterator, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .transducer import Targets
from .transducer_arcs import piece_size


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
