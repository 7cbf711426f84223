import math

import pytest
import torch

from colld_fairseq.losses import regression_loss

TERMS = ("l1", "mse", "cosine", "log_sigmoid_cosine")


def brute_force(p, z):
    """The four distances of one frame, from plain Python floats."""
    p, z = p.tolist(), z.tolist()
    d = len(p)
    norm = math.sqrt(sum(a * a for a in p)) * math.sqrt(sum(b * b for b in z))
    cosine = sum(a * b for a, b in zip(p, z)) / norm
    return {
        "l1": sum(abs(a - b) for a, b in zip(p, z)) / d,
        "mse": sum((a - b) ** 2 for a, b in zip(p, z)) / d,
        "cosine": 1 - cosine,
        "log_sigmoid_cosine": -math.log(1 / (1 + math.exp(-cosine))),
    }


def inputs(dtype=torch.float64):
    torch.manual_seed(0)
    return torch.randn(3, 7, 5, dtype=dtype), torch.randn(3, 7, 5, dtype=dtype), torch.rand(3, 7) < 0.6


@pytest.mark.parametrize("weights", [(1, 0, 0, 1), (0, 1, 0, 0), (1, 0, 0, 0), (0, 0, 1, 0), (0.5, 0.25, 2.0, 3.0)])
def test_equals_brute_force(weights):
    predictions, targets, mask = inputs()
    weights = dict(zip(TERMS, weights))
    expected = dict.fromkeys(TERMS, 0.0)
    for u, t in mask.nonzero().tolist():
        for name, value in brute_force(predictions[u, t], targets[u, t]).items():
            expected[name] += value
    loss_sum, count, parts = regression_loss(predictions, targets, mask, **weights)
    assert loss_sum.item() == pytest.approx(sum(weights[name] * expected[name] for name in TERMS), rel=1e-6)
    assert count == mask.sum()
    assert set(parts) == {name for name in TERMS if weights[name]}
    for name, value in parts.items():
        assert value.item() == pytest.approx(expected[name], rel=1e-6)
        assert not value.requires_grad


def test_default_is_l1_plus_log_sigmoid_cosine():
    predictions, targets, mask = inputs()
    out = regression_loss(predictions, targets, mask)
    assert out.loss_sum == regression_loss(predictions, targets, mask, 1.0, 0.0, 0.0, 1.0).loss_sum
    assert out.loss_sum.item() == pytest.approx((out.parts["l1"] + out.parts["log_sigmoid_cosine"]).item())


def test_gradcheck():
    predictions, targets, mask = inputs()
    predictions.requires_grad_()
    targets.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p, z: regression_loss(p, z, mask, 0.5, 0.3, 0.7, 1.1).loss_sum, (predictions, targets)
    )


def test_frames_outside_the_mask_never_matter():
    predictions, targets, mask = inputs()
    before = regression_loss(predictions, targets, mask).loss_sum
    predictions = predictions.masked_fill(~mask[..., None], float("nan")).requires_grad_()
    after = regression_loss(predictions, targets.masked_fill(~mask[..., None], float("inf")), mask).loss_sum
    assert after == before
    after.backward()
    assert predictions.grad[~mask].eq(0).all()
    assert predictions.grad[mask].isfinite().all()


def test_half_precision_inputs_give_float32_loss():
    predictions, targets, mask = inputs(torch.bfloat16)
    out = regression_loss(predictions, targets, mask)
    assert out.loss_sum.dtype == torch.float32
    assert out.loss_sum == regression_loss(predictions.float(), targets.float(), mask).loss_sum


def test_empty_mask_gives_a_zero_with_gradient():
    predictions, targets, mask = inputs()
    predictions.requires_grad_()
    out = regression_loss(predictions, targets, torch.zeros_like(mask), 1, 1, 1, 1)
    assert (out.loss_sum.item(), out.count.item()) == (0.0, 0)
    out.loss_sum.backward()
    assert predictions.grad.eq(0).all()


def test_bad_arguments():
    predictions, targets, mask = inputs()
    with pytest.raises(ValueError, match="every weight"):
        regression_loss(predictions, targets, mask, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="must be"):
        regression_loss(predictions, targets[:, :-1], mask)
