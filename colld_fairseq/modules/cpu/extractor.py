"""The waveform extractor on a CPU: matrix products on blocks of time that stay in the cache.

Most values of an utterance live in the first layers (512 channels at 3.2 kHz). Convolved, normalized and activated
layer by layer they cross the memory bus many times, which costs as much as the arithmetic. Here

- a block of output frames goes through all layers before the next one (a few frames of each layer are
  computed twice at a seam);
- activations are [T, C], on which convolutions are matrix products (see strided_matmul);
- the group norm after the first convolution is folded into that convolution's weights;
- the backward pass keeps the pre-activations of the later layers and computes the rest again.
"""

from dataclasses import dataclass
from typing import Iterator, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from colld_fairseq.modules.cpu.cached import CachedFromWeights
from colld_fairseq.modules.cpu.strided_matmul import convolve, convolve_backward, positions_first
from colld_fairseq.modules.lengths import conv_length
from colld_fairseq.modules.norms import MaskedChannelNorm

BLOCK_FRAMES = 100
_gelu_into = torch.ops.aten.gelu.out
_gelu_backward_into = torch.ops.aten.gelu_backward.grad_input
_layer_norm_backward = torch.ops.aten.native_layer_norm_backward


@dataclass(frozen=True)
class Step:
    """One layer: convolution, LayerNorm over channels where `eps` is not None, GELU."""

    kernel: int
    stride: int
    eps: Optional[float] = None


def extract_layers(
    layers: Sequence[nn.Module], x: Tensor, lengths: Optional[Tensor], cache: CachedFromWeights[List[Tensor]]
) -> Tensor:
    """Run a waveform front-end's ExtractorLayers on samples [B, N], of which `lengths` [B] count (None: all).

    Returns [B, T, C] as `extract_in_blocks`. `cache` holds the rearranged weights between passes that do not
    learn them.
    """
    first, *later = layers
    counts, frames = [], lengths
    if lengths is not None:
        for layer in layers:
            frames = conv_length(frames, layer.kernel, layer.stride)
            counts.append(frames)
    if isinstance(first.norm, MaskedChannelNorm):
        weight = fold_channel_norm(x, first.conv, first.norm, counts[0] if counts else None)
    else:
        weight, bias = first.conv.weight.squeeze(1), first.conv.bias
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        weight = torch.cat((weight, bias.unsqueeze(1)), dim=1).expand(x.size(0), -1, -1)
    weights = [layer.conv.weight for layer in later]
    if torch.is_grad_enabled() and any(w.requires_grad for w in weights):
        rearranged = [positions_first(w) for w in weights]
    else:
        rearranged = cache.get(weights, lambda: [positions_first(w) for w in weights])
    tensors = [[weight, None]] + [[rows, layer.conv.bias] for rows, layer in zip(rearranged, later)]
    steps = []
    for layer, own in zip(layers, tensors):
        norm = layer.norm if isinstance(layer.norm, nn.LayerNorm) else None
        steps.append(Step(layer.kernel, layer.stride, norm.eps if norm else None))
        own.extend((norm.weight, norm.bias) if norm else (None, None))
    return extract_in_blocks(x, steps, tensors, counts[-1].tolist() if counts else None)


def fold_channel_norm(x: Tensor, conv: nn.Conv1d, norm: nn.Module, frames: Optional[Tensor] = None) -> Tensor:
    """Weights of a first convolution that normalizes its own output over time, utterance by utterance.

    The output y = w z + b of the K samples z under the kernel has mean w m + b and variance w R w^T, where m
    and R are mean and covariance of z over the frames: a K x K matrix instead of a pass over all channels.

    Args:
        x: samples [B, N].
        conv: 1 -> C channels, kernel K, without padding.
        norm: what follows it: weight [C], bias [C], eps.
        frames: [B] output frames of each utterance that count; None = all.

    Returns:
        [B, C, K + 1] in the dtype of `x`, the bias in the last column; the statistics are float64.
    """
    windows = x.unfold(1, conv.kernel_size[0], conv.stride[0]).double()
    if frames is None:
        frames = torch.full((x.size(0),), windows.size(1))
    padding = (torch.arange(windows.size(1)) >= frames[:, None]).unsqueeze(-1)
    count = frames.clamp(min=1)[:, None, None]
    mean = windows.masked_fill(padding, 0.0).sum(1, keepdim=True) / count
    centered = (windows - mean).masked_fill_(padding, 0.0)
    covariance = centered.transpose(1, 2) @ centered / count
    kernels = conv.weight.squeeze(1).double()
    offset = kernels.new_zeros(len(kernels)) if conv.bias is None else conv.bias.double()
    y_mean = (mean @ kernels.t()).squeeze(1) + offset
    scale = norm.weight * torch.rsqrt(((kernels @ covariance) * kernels).sum(-1) + norm.eps)
    shift = norm.bias + scale * (offset - y_mean)
    return torch.cat((scale.unsqueeze(-1) * kernels, shift.unsqueeze(-1)), dim=-1).to(x.dtype)


def extract_in_blocks(
    x: Tensor,
    steps: Sequence[Step],
    tensors: Sequence[Sequence[Optional[Tensor]]],
    frames: Optional[Sequence[int]] = None,
) -> Tensor:
    """Run the extractor.

    Args:
        x: samples [B, N] on the CPU; they get no gradient.
        steps: the layers.
        tensors: for each of them weight, bias, gain and offset of the norm, None where there is none. The first weight
            is [B, C, K + 1] with the bias in its last column, the others come from `positions_first`.
        frames: valid frames of each utterance; None = all. The others are not computed.

    Returns:
        [B, T, C], 0 where an utterance has no frame.
    """
    total = x.size(1)
    for step in steps:
        total = (total - step.kernel) // step.stride + 1
    plan = _Plan(tuple(steps), total, tuple(frames or [total] * x.size(0)))
    flat = [tensor for layer in tensors for tensor in layer]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in flat):
        return _Extractor.apply(x, plan, *flat)
    return _forward(x, plan, flat, None)


@dataclass(frozen=True)
class _Plan:
    """Layers, frames of the padded output, and valid frames of each utterance."""

    steps: Tuple[Step, ...]
    total: int
    frames: Tuple[int, ...]

    def blocks(self) -> Iterator[Tuple[int, int, int]]:
        """(utterance, first frame, how many frames) of every block."""
        for utterance, frames in enumerate(self.frames):
            for first in range(0, frames, BLOCK_FRAMES):
                yield utterance, first, min(BLOCK_FRAMES, frames - first)

    def rows(self, last: int) -> List[int]:
        """Rows that each layer computes for `last` rows of the last one."""
        rows = [last]
        for step in reversed(self.steps[1:]):
            rows.insert(0, (rows[0] - 1) * step.stride + step.kernel)
        return rows

    def windows(self, x: Tensor, utterance: int, first: int, frames: int) -> Tensor:
        """Samples under the first kernel for one block, and a 1 for the bias: [rows, K + 1]."""
        for step in self.steps[1:]:
            first *= step.stride
        kernel, count = self.steps[0].kernel, self.rows(frames)[0]
        windows = x.new_ones(count, kernel + 1)
        windows[:, :kernel] = x[utterance].unfold(0, kernel, self.steps[0].stride)[first : first + count]
        return windows


class _Extractor(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, plan, *flat):
        kept: List[Tensor] = []
        out = _forward(x, plan, flat, kept)
        ctx.plan = plan
        ctx.save_for_backward(x, *flat, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        plan, (x, *saved) = ctx.plan, ctx.saved_tensors
        tensors = 4 * len(plan.steps)
        flat, kept = saved[:tensors], iter(saved[tensors:])
        grads = [None if tensor is None else torch.zeros_like(tensor) for tensor in flat]
        work = _Workspace(x, plan, flat)
        for utterance, first, frames in plan.blocks():
            windows = plan.windows(x, utterance, first, frames)
            inputs = [next(kept) for _ in plan.steps[1:]]
            out_grad = grad[utterance, first : first + frames]
            _backward_block(
                out_grad, windows, inputs, plan.steps, _layers(flat, utterance), _layers(grads, utterance), work
            )
        return (None, None, *grads)


class _Workspace:
    """Memory that every block uses again: getting it anew from the system would cost more than what is done in it."""

    def __init__(self, x: Tensor, plan: _Plan, flat: Sequence[Optional[Tensor]]):
        rows = plan.rows(min(BLOCK_FRAMES, plan.total))
        widths = [flat[0].size(1)] + [weight.size(1) for weight in flat[4::4]]
        size = max(count * width for count, width in zip(rows, widths))
        self.buffers = [x.new_empty(size) for _ in range(4)]

    def take(self, index: int, rows: int, width: int) -> Tensor:
        """Buffer `index` (0 to 3) as [rows, width], with whatever it holds."""
        return self.buffers[index][: rows * width].view(rows, width)


def _layers(flat: Sequence[Optional[Tensor]], utterance: int) -> List[List[Optional[Tensor]]]:
    """[weight, bias, gain, offset] of each layer; of the first one the weight that belongs to this utterance."""
    layers = [list(flat[i : i + 4]) for i in range(0, len(flat), 4)]
    layers[0][0] = layers[0][0][utterance]
    return layers


def _activate(x: Tensor, step: Step, layer: Sequence[Optional[Tensor]], out: Tensor) -> Tensor:
    if step.eps is not None:
        x = F.layer_norm(x, x.shape[-1:], layer[2], layer[3], step.eps)
    return _gelu_into(x, out=out)


def _activate_backward(
    grad: Tensor,
    x: Tensor,
    step: Step,
    layer: Sequence[Optional[Tensor]],
    grads: Sequence[Optional[Tensor]],
    out: Tensor,
) -> Tensor:
    """Gradient of `x`, in `out` or in new memory; adds to the norm's `grads`."""
    if step.eps is None:
        return _gelu_backward_into(grad, x, grad_input=out)
    normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], layer[2], layer[3], step.eps)
    _gelu_backward_into(grad, normed, grad_input=out)
    x_grad, gain, offset = _layer_norm_backward(
        out, x, x.shape[-1:], mean, rstd, layer[2], layer[3], [True, True, True]
    )
    grads[2].add_(gain)
    grads[3].add_(offset)
    return x_grad


def _forward(x: Tensor, plan: _Plan, flat: Sequence[Optional[Tensor]], kept: Optional[List[Tensor]]) -> Tensor:
    """All blocks; appends to `kept` the pre-activations of every layer but the first."""
    out = x.new_empty(x.size(0), plan.total, flat[-4].size(-1 if len(plan.steps) > 1 else 1))
    for utterance, frames in enumerate(plan.frames):
        out[utterance, frames:] = 0.0
    work, last = _Workspace(x, plan, flat), len(plan.steps) - 1
    for utterance, first, frames in plan.blocks():
        layers = _layers(flat, utterance)
        windows = plan.windows(x, utterance, first, frames)
        y = torch.mm(windows, layers[0][0].t(), out=work.take(0, len(windows), layers[0][0].size(0)))
        hidden = y  # what the layer before has made; of the first one nothing is asked
        for index, length in enumerate(plan.rows(frames)):
            step, layer = plan.steps[index], layers[index]
            if index:
                shape = length, layer[0].size(1)
                y = work.take(index % 2, *shape) if kept is None else x.new_empty(shape)
                convolve(hidden, layer[0], step.stride, y)
                if layer[1] is not None:
                    y.add_(layer[1])
                if kept is not None:
                    kept.append(y)
            if index == last:
                _activate(y, step, layer, out[utterance, first : first + frames])
            else:
                hidden = _activate(y, step, layer, work.take(index % 2, *y.shape))
    return out


def _backward_block(
    grad: Tensor,
    windows: Tensor,
    kept: Sequence[Tensor],
    steps: Sequence[Step],
    layers: List[List[Optional[Tensor]]],
    grads: List[List[Optional[Tensor]]],
    work: _Workspace,
) -> None:
    """Add one block's gradients to `grads`; `grad` [T, C] is that of its output."""
    weight = layers[0][0]
    inputs = [torch.mm(windows, weight.t(), out=work.take(0, len(windows), weight.size(0))), *kept]
    for index in range(len(steps) - 1, 0, -1):
        step, layer, y, below = steps[index], layers[index], inputs[index], inputs[index - 1]
        y_grad = _activate_backward(grad, y, step, layer, grads[index], work.take(1 + index % 2, *y.shape))
        if layer[1] is not None:
            grads[index][1].add_(y_grad.sum(0))
        hidden = _activate(below, steps[index - 1], layers[index - 1], work.take(3, *below.shape))
        grad = work.take(2 - index % 2, *below.shape)
        convolve_backward(y_grad, hidden, layer[0], step.stride, grads[index][0], grad)
    y_grad = _activate_backward(grad, inputs[0], steps[0], layers[0], grads[0], work.take(1, *inputs[0].shape))
    grads[0][0].addmm_(y_grad.t(), windows)
