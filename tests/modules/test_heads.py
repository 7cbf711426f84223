import pytest
import torch
import torch.nn.functional as F

from colld_fairseq.modules.heads import DistillationHeads


def features(count, width=6, frames=5):
    torch.manual_seed(0)
    return [torch.randn(2, frames, width) for _ in range(count)]


def test_linear():
    heads = DistillationHeads([6, 6, 6], [4, 4, 8])
    inputs = features(3)
    outputs = heads(inputs)
    assert [tuple(y.shape) for y in outputs] == [(2, 5, 4), (2, 5, 4), (2, 5, 8)]
    for x, y, head in zip(inputs, outputs, heads.heads):
        torch.testing.assert_close(y, x @ head.weight.T + head.bias)


@pytest.mark.parametrize("activation, function", [(None, F.relu), ("relu", F.relu), ("gelu", F.gelu)])
def test_mlp(activation, function):
    heads = DistillationHeads([6, 6], [4, 4], kind="mlp", hidden_width=9, activation=activation)
    inputs = features(2)
    for x, y, head in zip(inputs, heads(inputs), heads.heads):
        assert head[0].weight.shape == (9, 6)
        expected = function(x @ head[0].weight.T + head[0].bias) @ head[2].weight.T + head[2].bias
        torch.testing.assert_close(y, expected)


def test_shared_is_distilhubert():
    heads = DistillationHeads([6], [4, 4, 4], kind="shared")
    (x,) = features(1)
    g = F.gelu(x @ heads.trunk[0].weight.T + heads.trunk[0].bias)
    assert g.shape == (2, 5, 18)
    for k, (y, head) in enumerate(zip(heads([x]), heads.heads)):
        torch.testing.assert_close(y, g[..., 6 * k : 6 * k + 6] @ head.weight.T + head.bias)


def test_distilhubert_head_size():
    # A: 768 -> 3 * 768 and three V_k: 768 -> 768.
    heads = DistillationHeads([768], [768] * 3, kind="shared")
    assert sum(p.numel() for p in heads.parameters()) == 769 * 3 * 768 + 3 * 769 * 768


@pytest.mark.parametrize("kind, count", [("linear", 2), ("mlp", 2), ("shared", 1)])
def test_upsampling_gives_each_frame_its_own_frames(kind, count):
    heads = DistillationHeads([6] * count, [4, 4], kind=kind, upsample=2)
    inputs = features(count)
    outputs = heads(inputs)
    assert all(y.shape == (2, 10, 4) for y in outputs)
    changed = [x.clone() for x in inputs]
    for x in changed:
        x[:, 3] += 1.0
    for before, after in zip(outputs, heads(changed)):
        frames = (before - after).abs().amax((0, 2)) > 0
        assert frames.nonzero().flatten().tolist() == [6, 7]


def test_upsampling_formula():
    heads = DistillationHeads([3], [3], upsample=2)
    (x,) = features(1, width=3)
    conv = heads.upsamplers[0].conv
    for phase in range(2):
        expected = heads.heads[0](x @ conv.weight[:, :, phase] + conv.bias)
        torch.testing.assert_close(heads([x])[0][:, phase::2], expected)


@pytest.mark.parametrize("kind, count", [("linear", 2), ("mlp", 2), ("shared", 1)])
def test_bias_option_removes_the_last_bias(kind, count):
    heads = DistillationHeads([6] * count, [4, 4], kind=kind, bias=False)
    last = [head[-1] if kind == "mlp" else head for head in heads.heads]
    assert all(layer.bias is None for layer in last)


def test_every_parameter_gets_a_gradient():
    for kind, count in (("linear", 2), ("mlp", 2), ("shared", 1)):
        heads = DistillationHeads([6] * count, [4, 4], kind=kind, upsample=2)
        sum(y.square().sum() for y in heads(features(count))).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in heads.parameters())


@pytest.mark.parametrize(
    "arguments, match",
    [
        (dict(input_widths=[6], target_widths=[4], kind="cubic"), "cubic"),
        (dict(input_widths=[6], target_widths=[4], activation="step"), "step"),
        (dict(input_widths=[6], target_widths=[4, 4]), "need 2"),
        (dict(input_widths=[6, 6], target_widths=[4, 4], kind="shared"), "need 1"),
        (dict(input_widths=[], target_widths=[]), "0 targets"),
        (dict(input_widths=[6], target_widths=[4], upsample=0), "upsample"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        DistillationHeads(**arguments)


def test_wrong_number_of_features():
    with pytest.raises(ValueError, match="take 2"):
        DistillationHeads([6, 6], [4, 4])(features(1))
