"""The waveform extractor in blocks against torch's conv1d, group_norm and layer_norm."""

import pytest
import torch
import torch.nn.functional as F

from colld_fairseq.modules.cpu import extractor, plain_operators
from colld_fairseq.modules.cpu.extractor import fold_channel_norm
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.frontends import WaveformFrontEnd

SHAPES = {
    "hubert": [[6, 10, 5], [6, 3, 2], [5, 3, 2], [7, 2, 2]],
    "fithubert": [[4, 10, 5], [6, 1, 1], [6, 3, 2], [8, 2, 2]],
    "overlapping": [[4, 9, 2], [5, 5, 2], [5, 4, 1], [6, 7, 3]],
    "gaps": [[4, 3, 5], [5, 2, 3], [6, 1, 2]],
    "one layer": [[4, 10, 5]],
}


def front_end(shape, norm, bias, dtype=torch.float64):
    torch.manual_seed(0)
    config = EncoderConfig(
        front_end="waveform", conv_layers=SHAPES[shape], extractor_norm=norm, conv_bias=bias, position="none"
    )
    module = WaveformFrontEnd(config)
    for parameter in module.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=0.5)
    return module.to(dtype)


def results(module, x, lengths, out_grad):
    """Features of valid frames and every gradient of the extractor."""
    features = module.extract(x, lengths)
    for utterance, frames in enumerate(module.output_lengths(lengths).tolist()):
        out_grad[utterance, frames:] = 0.0
    gradients = torch.autograd.grad((features * out_grad).sum(), list(module.layers.parameters()))
    return features * (out_grad != 0), gradients


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_features_and_gradients_are_those_of_convolutions(shape, norm, bias, monkeypatch):
    monkeypatch.setattr(extractor, "BLOCK_FRAMES", 5)
    module = front_end(shape, norm, bias)
    x, lengths = torch.randn(3, 503, dtype=torch.float64), torch.tensor([503, 320, 191])
    with plain_operators():
        frames = module.extract(x, lengths).size(1)
    out_grad = torch.randn(3, frames, SHAPES[shape][-1][0], dtype=torch.float64)
    features, gradients = results(module, x, lengths, out_grad)
    with plain_operators():
        expected, expected_gradients = results(module, x, lengths, out_grad)
    torch.testing.assert_close(features, expected, atol=1e-10, rtol=1e-10)
    for ours, theirs in zip(gradients, expected_gradients):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(module.extract(x, lengths) * (out_grad != 0), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("samples", range(400, 1400, 111))
def test_single_precision_at_every_length(samples):
    module = front_end("hubert", "group", False, torch.float32)
    x = torch.randn(2, samples)
    with plain_operators():
        expected = module.extract(x)
    torch.testing.assert_close(module.extract(x), expected, atol=2e-5, rtol=0)


def test_folded_norm_is_a_group_norm_of_each_utterances_frames():
    torch.manual_seed(0)
    conv, norm = torch.nn.Conv1d(1, 6, 10, stride=5), torch.nn.GroupNorm(6, 6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(3, 200)
    x[1] += 30.0  # an offset of the whole recording
    frames = torch.tensor([39, 20, 0])
    weights, biases = fold_channel_norm(x, conv, norm, frames)
    for utterance in range(2):
        windows = x[utterance, : 5 + 5 * frames[utterance]].unfold(0, 10, 5)
        ours = windows @ weights[utterance].t() + biases[utterance]
        double = conv.double()(x[None, utterance : utterance + 1, : 5 + 5 * frames[utterance]].double())
        expected = F.group_norm(double, 6, norm.weight.double(), norm.bias.double(), norm.eps)
        conv.float()
        torch.testing.assert_close(ours.t(), expected[0].float(), atol=2e-4, rtol=0)
    assert torch.isfinite(weights).all() and torch.isfinite(biases).all()


def test_padded_frames_are_zero_and_cost_nothing(monkeypatch):
    monkeypatch.setattr(extractor, "BLOCK_FRAMES", 4)
    module = front_end("hubert", "group", False)
    calls = []
    plain = extractor.convolve
    monkeypatch.setattr(extractor, "convolve", lambda *a: calls.append(1) or plain(*a))
    x, lengths = torch.randn(2, 1000, dtype=torch.float64), torch.tensor([1000, 205])
    x[1, 205:] = float("nan")
    features = module.extract(x, lengths)
    frames = module.output_lengths(lengths).tolist()
    assert not features[1, frames[1] :].any() and torch.isfinite(features).all()
    assert len(calls) == 3 * sum(-(-count // 4) for count in frames)


def test_samples_that_need_a_gradient_get_it():
    module = front_end("hubert", "layer", True)
    x = torch.randn(1, 400, dtype=torch.float64, requires_grad=True)
    module.extract(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_half_precision_and_autocast_use_the_plain_convolutions(monkeypatch):
    monkeypatch.setattr(extractor, "_block", None)
    x = torch.randn(1, 500)
    front_end("hubert", "group", False, torch.bfloat16).extract(x.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        front_end("hubert", "group", False, torch.float32).extract(x)


def test_changed_weights_are_noticed():
    module = front_end("hubert", "group", False).eval()
    x = torch.randn(1, 400, dtype=torch.float64)
    with torch.no_grad():
        before = module.extract(x)
        module.layers[2].conv.weight.data[0, 1, 2] += 0.5
        after = module.extract(x)
        with plain_operators():
            expected = module.extract(x)
    torch.testing.assert_close(after, expected, atol=1e-10, rtol=1e-10)
    assert not torch.equal(before, after)
