"""Strided convolutions over time as matrix products on rows [T, C], without copies of their input.

Neighboring kernel positions of one output are neighboring rows, and rows behind one another are one longer row: a
convolution of kernel 3 and stride 2 is a product of `x` seen as [T / 2, 2 C] and one of every second row. All tensors
that the functions take are contiguous; a `weight` is [K * C, O], from `positions_first`.
"""

from typing import Iterator, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def positions_first(weight: Tensor) -> Tensor:
    """Weight of a convolution [O, C, K] -> [K * C, O], as kernel positions stand in the rows of the input."""
    return weight.permute(2, 1, 0).reshape(-1, weight.size(0))


def convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """x [(T - 1) * stride + K, C] -> [T, O]."""
    return _Convolution.apply(x, weight, stride)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, stride):
        ctx.save_for_backward(x, weight)
        ctx.stride, kernel = stride, len(weight) // x.size(1)
        out = x.new_empty((len(x) - kernel) // stride + 1, weight.size(1))
        for index, (rows, view) in enumerate(_products(x, weight, stride, len(out))):
            if index:
                out.addmm_(view, weight[rows])
            else:
                torch.mm(view, weight[rows], out=out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x, weight), stride, grad = ctx.saved_tensors, ctx.stride, grad.contiguous()
        weight_grad, x_grad = torch.empty_like(weight), torch.empty_like(x)
        for rows, view in _products(x, weight, stride, len(grad)):
            torch.mm(view.t(), grad, out=weight_grad[rows])
        # The first product writes whole strides; only the frames behind them then need zeros.
        written = len(grad) * stride if len(weight) >= stride * x.size(1) else 0
        x_grad[written:].zero_()
        for index, (rows, view) in enumerate(_products(x_grad, weight, stride, len(grad))):
            if index or not written:
                view.addmm_(grad, weight[rows].t())
            else:
                torch.mm(grad, weight[rows].t(), out=view)
        return x_grad, weight_grad, None


def _products(x: Tensor, weight: Tensor, stride: int, length: int) -> Iterator[Tuple[slice, Tensor]]:
    """(rows of the weight, input [length, as many]) of each matrix product."""
    step = stride * x.size(1)
    for start in range(0, len(weight), step):
        width = min(step, len(weight) - start)
        yield (slice(start, start + width), x.as_strided((length, width), (step, 1), x.storage_offset() + start))
