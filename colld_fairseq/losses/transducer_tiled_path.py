"""One-best path distillation of a joiner whose logits are never held: what `path_loss` does, some nodes at a time.

Of the nodes of a path (T + U of them, times the frames with which each may be compared) only the joiner's last hidden
layer is kept, J values instead of V. The backward pass computes logits again where a divergence has a gradient, which
in a window of frames are the least ones.
"""

from typing import Callable, NamedTuple

import torch
from torch import Tensor

from .joiner_tiles import OutputLayer, logit_dtype, refuse_second_derivative, tile_rows
from .transducer_distillation import NodeLosses, least_divergences


class HiddenNodes(NamedTuple):
    """hidden `[P, W, J]`: the joiner's activations at nodes; weight `[V, J]`, bias `[V]`: of its output layer."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor


def tiled_path_loss(
    student: HiddenNodes,
    teacher_logits: Callable[[Tensor], Tensor],
    present: Tensor,
    text: Tensor,
    count: int,
    *,
    budget_mb: float,
    temperature: float = 1.0,
) -> NodeLosses:
    """`path_loss` with memory for logits of 10^6 * `budget_mb` bytes, for both models together.

    teacher_logits: of some of the P nodes, int64 `[R]`, its logits `[R, V]`. The others: as for `path_loss`. It can
    be differentiated once (RuntimeError with create_graph=True).
    """
    node, position = present.nonzero(as_tuple=True)
    dtype = logit_dtype(student.hidden, student.weight)
    rows = tile_rows(budget_mb, *student.weight.shape, dtype, teacher=True)
    with torch.autocast(student.hidden.device.type, enabled=False):
        hidden = student.hidden[node, position]
        teacher = _Teacher(teacher_logits, node, temperature)
        divergence = _TiledDivergence.apply(hidden, student.weight, student.bias, teacher, dtype, rows)
        return least_divergences(divergence, present, text, count)


class _Teacher(NamedTuple):
    """`nodes` `[Q]`: which of its P nodes each of the student's rows learns from."""

    logits: Callable[[Tensor], Tensor]
    nodes: Tensor
    temperature: float

    def at(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """`[R, V]`, divided by the temperature."""
        return self.logits(self.nodes[rows]).to(dtype) / self.temperature


class _TiledDivergence(torch.autograd.Function):
    """KL(teacher || student) `[Q]` at the rows of the student's hidden layer `[Q, J]`."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, teacher: _Teacher, dtype: torch.dtype, rows: int):
        ctx.save_for_backward(hidden, weight, bias)
        ctx.teacher, ctx.dtype, ctx.rows = teacher, dtype, rows
        output = OutputLayer(weight, bias, dtype, rows, len(hidden))
        divergence = hidden.new_zeros(len(hidden), dtype=output.exact)
        for piece in torch.arange(len(hidden), device=hidden.device).split(rows):
            logits = output.logits(hidden[piece]).to(output.exact)
            log_q = torch.log_softmax(logits / teacher.temperature, -1)
            log_p = torch.log_softmax(teacher.at(piece, output.exact), -1)
            divergence[piece] = torch.sub(log_p, log_q, out=log_q).mul_(log_p.exp_()).sum(-1)
        return divergence

    @staticmethod
    def backward(ctx, grad):
        refuse_second_derivative()
        hidden, weight, bias = ctx.saved_tensors
        with torch.autocast(hidden.device.type, enabled=False):  # the caller may be inside one
            output = OutputLayer(weight, bias, ctx.dtype, ctx.rows, len(hidden), with_gradient=True)
            grad_hidden = torch.zeros_like(hidden)
            for piece in grad.nonzero()[:, 0].split(ctx.rows):
                logits = output.logits(hidden[piece]).to(output.exact)
                q = torch.softmax(logits / ctx.teacher.temperature, -1)
                q.sub_(torch.softmax(ctx.teacher.at(piece, output.exact), -1))
                q.mul_(grad[piece, None] / ctx.teacher.temperature)
                grad_hidden[piece] = output.backward(q, hidden[piece]).to(hidden.dtype)
            return grad_hidden, output.grad_weight.to(weight.dtype), output.grad_bias.to(bias.dtype), None, None, None
