"""Depthwise convolution over time on [B, T, D], without transposing to channels-first."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _ShiftAndAdd(torch.autograd.Function):
    """``y[t] = sum_k x[t + k] * w[k]`` channel by channel, accumulated in place.

    Autograd through the plain sum would keep and pad a tensor for every kernel position; torch's grouped
    convolution is two to three times slower than this at the widths of a small student on a CPU.
    """

    @staticmethod
    def forward(ctx, padded: Tensor, weight: Tensor) -> Tensor:
        kernel = weight.size(0)
        length = padded.size(1) - kernel + 1
        out = padded[:, :length] * weight[0]
        for k in range(1, kernel):
            out.addcmul_(padded[:, k : k + length], weight[k])
        ctx.save_for_backward(padded, weight)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        padded, weight = ctx.saved_tensors
        length = grad.size(1)
        grad_padded, grad_weight = torch.zeros_like(padded), torch.empty_like(weight)
        for k in range(weight.size(0)):
            window = slice(k, k + length)
            grad_padded[:, window].addcmul_(grad, weight[k])
            grad_weight[k] = (padded[:, window] * grad).sum((0, 1))
        return grad_padded, grad_weight


class DepthwiseConv(nn.Module):
    """One filter of ``kernel`` frames per channel, no bias; ``causal`` = past frames only, else centred.

    The weight has torch's Conv1d shape [D, 1, kernel], so that checkpoints of other libraries load unchanged.
    """

    def __init__(self, channels: int, kernel: int, causal: bool = False):
        super().__init__()
        self.kernel, self.causal = kernel, causal
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]; frames outside the clip count as zero; the caller zeroes padded frames."""
        left = self.kernel - 1 if self.causal else (self.kernel - 1) // 2
        padded = F.pad(x, (0, 0, left, self.kernel - 1 - left))
        if (
            x.device.type == "cpu"
            and x.dtype in (torch.float32, torch.float64)
            and not torch.compiler.is_compiling()
        ):
            return _ShiftAndAdd.apply(padded, self.weight[:, 0].t().contiguous())
        return F.conv1d(padded.transpose(1, 2), self.weight, groups=self.weight.size(0)).transpose(1, 2)
