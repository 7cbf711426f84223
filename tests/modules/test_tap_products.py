"""Convolutions as matrix products against conv1d and its gradients."""

import pytest
import torch
import torch.nn.functional as F

from colld_fairseq.modules.tap_products import Conv, convolve, convolve_backward, taps_first


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 2), (1, 1), (3, 1), (4, 2), (5, 3), (2, 3), (1, 2)])
@pytest.mark.parametrize("channels, outputs", [(4, 4), (3, 7), (6, 2)])
def test_forward_and_backward(kernel, stride, length, channels, outputs):
    torch.manual_seed(0)
    x = torch.randn((length - 1) * stride + kernel, channels, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(outputs, channels, kernel, dtype=torch.float64, requires_grad=True)
    taps = taps_first(weight)
    expected = F.conv1d(x.t()[None], weight, stride=stride)[0].t()
    grad = torch.randn(length, outputs, dtype=torch.float64)
    expected_grads = torch.autograd.grad((expected * grad).sum(), (x, weight))

    conv = Conv.of(taps.detach(), kernel, stride)
    scratch = torch.full((length * (channels + outputs) // 2,), float("nan"), dtype=torch.float64)
    out = torch.full((length, outputs), float("nan"), dtype=torch.float64)
    x_grad = torch.full_like(x, float("nan"))
    with torch.no_grad():
        convolve(x.detach().clone(), conv, out, scratch)
        weight_grad = torch.ones_like(conv.weight)  # gradients are added
        convolve_backward(grad, x.detach().clone(), conv, weight_grad, x_grad, scratch)
    torch.testing.assert_close(out, expected.detach())
    torch.testing.assert_close(x_grad, expected_grads[0])
    torch.testing.assert_close(weight_grad - 1, taps_first(expected_grads[1]))


def test_pairs_in_single_precision():
    """Five products instead of six cost no accuracy worth mentioning."""
    torch.manual_seed(0)
    x, weight = torch.randn(401, 64), torch.randn(48, 64, 3)
    expected = F.conv1d(x.t()[None].double(), weight.double(), stride=2)[0].t()
    out = torch.empty(200, 48)
    convolve(x.clone(), Conv.of(taps_first(weight), 3, 2), out, torch.empty(200 * 56))
    direct = F.conv1d(x.t()[None], weight, stride=2)[0].t()
    assert (out - expected).abs().max() < 4 * (direct - expected).abs().max()
