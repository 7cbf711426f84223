"""Convolutions as matrix products against conv1d and its gradients."""

import pytest
import torch
import torch.nn.functional as F

from colld_fairseq.modules.cpu.strided_matmul import convolve, positions_first


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 2), (1, 1), (3, 1), (4, 2), (5, 3), (2, 3), (1, 2)])
@pytest.mark.parametrize("channels, outputs", [(4, 4), (3, 7), (6, 2)])
def test_forward_and_backward(kernel, stride, length, channels, outputs):
    torch.manual_seed(0)
    x = torch.randn((length - 1) * stride + kernel, channels, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(outputs, channels, kernel, dtype=torch.float64, requires_grad=True)
    expected = F.conv1d(x.t()[None], weight, stride=stride)[0].t()
    out = convolve(x, positions_first(weight), stride)
    torch.testing.assert_close(out, expected)
    grad = torch.randn(length, outputs, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((y * grad).sum(), (x, weight)) for y in (out, expected))
    torch.testing.assert_close(ours, theirs)
