"""Strided convolutions over time as matrix products on rows [T, C], without copies of their input.

Neighbouring taps of one output are neighbouring rows, and rows behind one another are one longer row: a convolution
of kernel 3 and stride 2 is a product of ``x`` seen as [T / 2, 2 C] and one of every second row. All tensors that the
functions take are contiguous.
"""

from typing import List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor


def taps_first(weight: Tensor) -> Tensor:
    """Weight of a convolution [O, C, K] -> [K * C, O], as taps stand in the rows of the input."""
    return weight.permute(2, 1, 0).reshape(-1, weight.size(0))


class Conv(NamedTuple):
    """A convolution without padding. weight: from :func:`taps_first`; outer: sum of its first and third tap, or
    None."""

    weight: Tensor
    kernel: int
    stride: int
    outer: Optional[Tensor]

    @classmethod
    def of(cls, weight: Tensor, kernel: int, stride: int) -> "Conv":
        """With ``outer`` where outputs can be computed in pairs."""
        channels = len(weight) // kernel
        pairs = (kernel, stride) == (3, 2)
        return cls(weight, kernel, stride, weight[:channels] + weight[2 * channels :] if pairs else None)


def convolve(x: Tensor, conv: Conv, out: Tensor, scratch: Tensor) -> None:
    """x [(T - 1) * stride + kernel, C], which it may overwrite, -> out [T, O].

    ``scratch`` is flat memory of at least T (C + O) / 2 elements.
    """
    if conv.outer is not None and len(out) > 1:
        _convolve_pairs(x, conv, out, scratch)
        return
    for number, (rows, view) in enumerate(_products(x, conv, len(out))):
        if number:
            out.addmm_(view, conv.weight[rows])
        else:
            torch.mm(view, conv.weight[rows], out=out)


def convolve_backward(
    grad: Tensor, x: Tensor, conv: Conv, weight_grad: Tensor, x_grad: Tensor, scratch: Tensor
) -> None:
    """Add to ``weight_grad`` and write ``x_grad``; may overwrite ``x``. ``grad`` [T, O] is that of the output."""
    if conv.outer is not None and len(grad) > 1:
        _convolve_pairs_backward(grad, x, conv, weight_grad, x_grad, scratch)
        return
    for rows, view in _products(x, conv, len(grad)):
        weight_grad[rows].addmm_(view.t(), grad)
    # The first product writes whole strides; no frame then needs zeros but those behind them.
    written = len(grad) * conv.stride if conv.kernel >= conv.stride else 0
    x_grad[written:].zero_()
    for number, (rows, view) in enumerate(_products(x_grad, conv, len(grad))):
        if number or not written:
            view.addmm_(grad, conv.weight[rows].t())
        else:
            torch.mm(grad, conv.weight[rows].t(), out=view)


def _products(x: Tensor, conv: Conv, length: int) -> List[Tuple[slice, Tensor]]:
    """(rows of the weight, input [length, as many]) of each matrix product."""
    channels = x.size(1)
    products = []
    for tap in range(0, conv.kernel, conv.stride):
        start, stop = tap * channels, min(tap + conv.stride, conv.kernel) * channels
        products.append((slice(start, stop), _rows(x, length, start, stop - start, conv.stride * channels)))
    return products


def _rows(x: Tensor, length: int, start: int, width: int, step: int) -> Tensor:
    """[length, width] of what ``x`` [T, C] holds one row after the other, from ``start`` on every ``step``."""
    return x.as_strided((length, width), (step, 1), x.storage_offset() + start)


class _Pairs(NamedTuple):
    """The input of two outputs of a convolution of kernel 3 and stride 2: rows x0 to x4, each [P, C].

    y0 = a0 x0 + a1 x1 + a2 x2 and y1 = a0 x2 + a1 x3 + a2 x4 have six products; with s = (a0 + a2) x2 they have five
    (Winograd's F(2, 2) on the even rows):
    y0 = s + a0 (x0 - x2) + a1 x1 and y1 = s + a1 x3 + a2 (x4 - x2).
    """

    x0: Tensor
    x01: Tensor
    x2: Tensor
    x3: Tensor
    x4: Tensor

    @classmethod
    def of(cls, x: Tensor, count: int) -> "_Pairs":
        c = x.size(1)
        spans = ((0, c), (0, 2 * c), (2 * c, c), (3 * c, c), (4 * c, c))
        return cls(*(_rows(x, count, start, width, 4 * c) for start, width in spans))


def _both(y: Tensor, count: int) -> Tuple[Tensor, Tensor]:
    """Even and odd rows of the first ``2 * count``."""
    return tuple(_rows(y, count, start, y.size(1), 2 * y.size(1)) for start in (0, y.size(1)))


def _convolve_pairs(x: Tensor, conv: Conv, out: Tensor, scratch: Tensor) -> None:
    count, channels = len(out) // 2, x.size(1)
    weight = conv.weight
    if len(out) % 2:
        torch.mm(x[-3:].view(1, -1), weight, out=out[-1:])
    at, (y0, y1) = _Pairs.of(x, count), _both(out, count)
    after = scratch[: count * channels].view(count, channels)
    torch.sub(at.x4, at.x2, out=after)
    at.x0.sub_(at.x2)
    torch.mm(at.x2, conv.outer, out=y0)
    y1.copy_(y0)
    y0.addmm_(at.x01, weight[: 2 * channels])
    y1.addmm_(at.x3, weight[channels : 2 * channels])
    y1.addmm_(after, weight[2 * channels :])


def _convolve_pairs_backward(
    grad: Tensor, x: Tensor, conv: Conv, weight_grad: Tensor, x_grad: Tensor, scratch: Tensor
) -> None:
    count, channels = len(grad) // 2, x.size(1)
    _, second, third = conv.weight.split(channels)
    x_grad[4 * count :].zero_()
    if len(grad) % 2:
        weight_grad.addmm_(x[-3:].view(1, -1).t(), grad[-1:])
        x_grad[-3:].view(1, -1).addmm_(grad[-1:], conv.weight.t())
    at, (g0, g1) = _Pairs.of(x, count), _both(grad, count)
    both = scratch[: g0.numel()].view(g0.shape)
    after = scratch[g0.numel() : g0.numel() + at.x2.numel()].view(at.x2.shape)
    torch.add(g0, g1, out=both)
    torch.sub(at.x4, at.x2, out=after)
    at.x0.sub_(at.x2)
    outer_grad = at.x2.t() @ both
    weight_grad[:channels].add_(outer_grad)
    weight_grad[2 * channels :].add_(outer_grad)
    weight_grad[: 2 * channels].addmm_(at.x01.t(), g0)
    weight_grad[channels : 2 * channels].addmm_(at.x3.t(), g1)
    weight_grad[2 * channels :].addmm_(after.t(), g1)

    to = _Pairs.of(x_grad, count)
    torch.mm(g0, conv.weight[: 2 * channels].t(), out=to.x01)
    torch.mm(both, conv.outer.t(), out=to.x2)
    torch.mm(g1, second.t(), out=to.x3)
    torch.mm(g1, third.t(), out=after)
    to.x2.sub_(to.x0).sub_(after)
    to.x4.add_(after)
