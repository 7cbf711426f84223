"""Convolutions as matrix products against conv1d and its gradients."""

import pytest
import torch
import torch.nn.functional as F

from colld_fairseq.modules.cpu.strided_matmul import convolve, convolve_backward, positions_first


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 2), (1, 1), (3, 1), (4, 2), (5, 3), (2, 3), (1, 2)])
@pytest.mark.parametrize("channels, outputs", [(4, 4), (3, 7), (6, 2)])
def test_forward_and_backward(kernel, stride, length, channels, outputs):
    torch.manual_seed(0)
    x = torch.randn((length - 1) * stride + kernel, channels, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(outputs, channels, kernel, dtype=torch.float64, requires_grad=True)
    rows = positions_first(weight).detach()
    expected = F.conv1d(x.t()[None], weight, stride=stride)[0].t()
    grad = torch.randn(length, outputs, dtype=torch.float64)
    expected_grads = torch.autograd.grad((expected * grad).sum(), (x, weight))

    out = torch.full((length, outputs), float("nan"), dtype=torch.float64)
    x_grad = torch.full_like(x, float("nan"))
    with torch.no_grad():
        convolve(x.detach(), rows, stride, out)
        weight_grad = torch.ones_like(rows)  # gradients are added
        convolve_backward(grad, x.detach(), rows, stride, weight_grad, x_grad)
    torch.testing.assert_close(out, expected.detach())
    torch.testing.assert_close(x_grad, expected_grads[0])
    torch.testing.assert_close(weight_grad - 1, positions_first(expected_grads[1]))
