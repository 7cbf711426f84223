"""The position convolution by spectra against conv1d, and that it never uses weights of yesterday."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F

from colld_fairseq.modules import positions
from colld_fairseq.modules.cpu import plain_operators
from colld_fairseq.modules.cpu.spectral_conv import kernel_spectrum, spectral_conv
from colld_fairseq.modules.positions import ConvPositionalEmbedding


@pytest.mark.parametrize("frames", [1, 31, 32, 33, 66, 150])
@pytest.mark.parametrize("kernel", [32, 33])
def test_equals_conv1d(kernel, frames):
    torch.manual_seed(0)
    x = torch.randn(2, frames, 12, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4, kernel, dtype=torch.float64, requires_grad=True)
    gain = torch.rand(kernel, dtype=torch.float64, requires_grad=True)
    y = spectral_conv(x, kernel_spectrum(weight, gain, 3), kernel, 3)
    expected = F.conv1d(x.transpose(1, 2), weight * gain, padding=kernel // 2, groups=3)
    expected = expected[..., :frames].transpose(1, 2)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)
    grad = torch.randn_like(y)
    ours = torch.autograd.grad((y * grad).sum(), (x, weight, gain))
    theirs = torch.autograd.grad((expected * grad).sum(), (x, weight, gain))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


def test_single_precision_at_the_published_size():
    torch.manual_seed(0)
    module = ConvPositionalEmbedding(96, 128, 4)
    x = torch.randn(1, 200, 96)
    with plain_operators():
        expected = module.double()(x.double())
    with torch.no_grad():
        torch.testing.assert_close(module.float()(x), expected.float(), atol=1e-5, rtol=0)


def module_and_input():
    torch.manual_seed(0)
    return ConvPositionalEmbedding(8, 32, 2).eval(), torch.randn(2, 40, 8)


def plain(module, x):
    with plain_operators(), torch.no_grad():
        return module(x)


def edit_in_place(module):
    with torch.no_grad():
        module.weight_v[0] += 0.1


def edit_through_data(module):
    module.weight_v.data[0] += 0.1


def new_gain(module):
    module.weight_g.data.mul_(1.5)


def load(module):
    module.load_state_dict(ConvPositionalEmbedding(8, 32, 2).state_dict())


def swap_data(module):
    # The same sum and the same version, in other memory.
    module.weight_v.data = module.weight_v.data.flip(0)


def optimize(module):
    module.train()
    module.weight_v.grad = torch.ones_like(module.weight_v)
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    module.eval()


CHANGES = [edit_in_place, edit_through_data, new_gain, load, swap_data, optimize]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_changed_weights_are_noticed(change, mode):
    module, x = module_and_input()
    with mode():
        before = module(x)
    torch.testing.assert_close(before, plain(module, x), atol=1e-5, rtol=0)
    change(module)
    with mode():
        after = module(x)
    torch.testing.assert_close(after, plain(module, x), atol=1e-5, rtol=0)
    assert not torch.allclose(before, after, atol=1e-3)


def test_weights_are_transformed_once(monkeypatch):
    module, x = module_and_input()
    calls = []
    monkeypatch.setattr(positions, "kernel_spectrum", lambda *a: (calls.append(1), kernel_spectrum(*a))[1])
    with torch.no_grad():
        module(x), module(x), module(x[:1])
    assert len(calls) == 1
    module.train().requires_grad_(False)
    module(x), module(x)
    assert len(calls) == 2


def test_gradients_after_a_pass_without():
    """Nothing cached without gradients may stand in for weights that learn."""
    module, x = module_and_input()
    x = x.repeat(4, 1, 1)
    with torch.no_grad():
        module(x)
    ours = torch.autograd.grad(module(x).square().sum(), list(module.parameters()))
    with plain_operators():
        theirs = torch.autograd.grad(module(x).square().sum(), list(module.parameters()))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_gradient_through_frozen_weights_after_inference():
    module, x = module_and_input()
    module.requires_grad_(False)
    with torch.inference_mode():
        module(x)
    x.requires_grad_()
    (ours,) = torch.autograd.grad(module(x).square().sum(), x)
    with plain_operators():
        (theirs,) = torch.autograd.grad(module(x).square().sum(), x)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_copies_and_files_leave_the_spectrum_out():
    module, x = module_and_input()
    with torch.no_grad():
        expected = module(x)
        assert module._spectra._entry is not None
        for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert twin._spectra._entry is None
            torch.testing.assert_close(twin(x), expected)
    assert set(module.state_dict()) == {"weight_v", "weight_g", "bias"}
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    assert file.tell() < 10_000
