"""Front-ends: frame counts, norms without padding, masking of padding."""

import pytest
import torch

from colld_fairseq.data.fbank import fbank_length, log_mel_fbank
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.encoder import EncoderConfig
from colld_fairseq.modules.frontends import Conv2dFrontEnd, FbankFrontEnd, FbankStackFrontEnd, WaveformFrontEnd
from colld_fairseq.modules.norms import MaskedChannelNorm

CONV_LAYERS = [[8, 10, 5]] + [[8, 3, 2]] * 4 + [[8, 2, 2]] * 2


def front_end(cls, **changes):
    torch.manual_seed(0)
    values = dict(conv_layers=CONV_LAYERS, embed_dim=16, attention_heads=4)
    return cls(EncoderConfig(**{**values, **changes})).eval()


def test_fbank_frames_equal_waveform_frames_for_every_length():
    samples = torch.arange(400, 400_001)
    waveform, fbank = front_end(WaveformFrontEnd), front_end(FbankFrontEnd)
    frames = waveform.output_lengths(samples)
    assert torch.equal(frames, (samples - 400) // 320 + 1)
    assert torch.equal(fbank.output_lengths(torch.from_numpy(fbank_length(samples.numpy()))), frames)


def edges_and_others():
    """Lengths around those at which a waveform frame (every 320 samples) or a filterbank frame (160) is added."""
    edges = [400 + 160 * count + off for count in (1, 2, 3, 4, 99, 100, 625) for off in (-1, 0, 1)]
    others = torch.randint(400, 60_000, (25,), generator=torch.Generator().manual_seed(0)).tolist()
    return [400, *edges, *others, 399_919, 399_920, 399_999, 400_000]


def test_both_front_ends_make_the_frames_they_announce():
    waveform_end, fbank_end = front_end(WaveformFrontEnd), front_end(FbankFrontEnd)
    noise = 0.1 * torch.randn(1, 400_000)
    with torch.no_grad():
        for samples in edges_and_others():
            waveform = noise[:, :samples]
            bins = torch.from_numpy(log_mel_fbank(waveform[0].numpy())).unsqueeze(0)
            a, a_lengths = waveform_end(waveform)
            b, b_lengths = fbank_end(bins)
            assert bins.size(1) == fbank_length(samples), samples
            result = (a.size(1), b.size(1), a_lengths.item(), b_lengths.item())
            assert result == ((samples - 400) // 320 + 1,) * 4, samples


@pytest.mark.parametrize("stack, rate", [(2, 50.0), (4, 25.0)])
def test_stacked_frames_stand_side_by_side(stack, rate):
    module = front_end(FbankStackFrontEnd, fbank_bins=3, fbank_stack=stack, feature_norm=False)
    module.projection = torch.nn.Identity()
    x = torch.arange(2 * 11 * 3.0).view(2, 11, 3)
    y, lengths = module(x, torch.tensor([11, 7]))
    assert module.frame_rate_hz == rate
    assert lengths.tolist() == [11 // stack, 7 // stack]
    assert torch.equal(y[1, 1], x[1, stack : 2 * stack].flatten())


def test_conv2d_frames_are_those_of_conformer_transducers():
    """((T - 1) // 2 - 1) // 2 frames, 25 Hz, of which number k sees filterbank frames 4k to 4k + 6."""
    module = front_end(Conv2dFrontEnd, subsampling_channels=3, fbank_bins=20)
    assert module.frame_rate_hz == 25.0 and module.projection.in_features == 3 * 4
    counts = torch.arange(1, 200)
    assert torch.equal(module.output_lengths(counts), ((counts - 1) // 2 - 1).clamp(min=0) // 2)
    x = torch.randn(1, 23, 20, requires_grad=True)
    y, lengths = module(x)
    assert y.size(1) == int(lengths) == 5
    seen = torch.autograd.grad(y[0, 2].sum(), x)[0][0].abs().sum(1).nonzero()[:, 0]
    assert seen.tolist() == list(range(8, 15))


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("cls", [WaveformFrontEnd, FbankFrontEnd, FbankStackFrontEnd, Conv2dFrontEnd])
def test_padding_never_reaches_a_valid_frame(cls, norm):
    module = front_end(cls, extractor_norm=norm, conv_bias=True).double()
    if cls is WaveformFrontEnd:
        x, lengths = torch.randn(3, 3000, dtype=torch.float64), torch.tensor([3000, 1999, 700])
    else:
        x, lengths = torch.randn(3, 41, 80, dtype=torch.float64), torch.tensor([41, 24, 9])
    y, out_lengths = module(x, lengths)
    for row in range(3):
        alone, _ = module(x[row : row + 1, : lengths[row]])
        assert alone.size(1) == out_lengths[row]
        torch.testing.assert_close(y[row, : out_lengths[row]], alone[0], atol=1e-12, rtol=0)


def test_gradient_multiplier_scales_only_the_extractor():
    x = torch.randn(2, 2000)
    gradients = []
    for factor in (1.0, 0.1, 0.0):
        module = front_end(WaveformFrontEnd, feature_grad_mult=factor)
        module(x)[0].square().sum().backward()
        gradients.append((module.layers[3].conv.weight.grad, module.projection.weight.grad))
    torch.testing.assert_close(gradients[1][0], 0.1 * gradients[0][0])
    torch.testing.assert_close(gradients[1][1], gradients[0][1])
    assert gradients[2][0] is None


def test_too_short_an_utterance_is_named():
    with pytest.raises(ConfigError, match="399 samples; one frame needs 400"):
        front_end(WaveformFrontEnd)(torch.randn(1, 399))
    with pytest.raises(ConfigError, match="3 fbank frames; one frame needs 4"):
        front_end(FbankStackFrontEnd, fbank_stack=4)(torch.randn(1, 3, 80))
    with pytest.raises(ConfigError, match="6 fbank frames; one frame needs 7"):
        front_end(Conv2dFrontEnd)(torch.randn(1, 6, 80))


def test_channel_norm_of_equal_lengths_is_group_norm():
    torch.manual_seed(0)
    norm, reference = MaskedChannelNorm(6), torch.nn.GroupNorm(6, 6)
    x = torch.randn(2, 6, 9) * 3 + 1
    no_padding = torch.zeros(2, 9, dtype=torch.bool)
    torch.testing.assert_close(norm(x), reference(x))
    torch.testing.assert_close(norm(x, no_padding), reference(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_channel_norm_keeps_its_statistics_in_float32(dtype):
    torch.manual_seed(0)
    norm, x = MaskedChannelNorm(4), torch.randn(2, 4, 5000) + 2
    padding = torch.arange(5000) >= torch.tensor([5000, 4000])[:, None]
    expected = norm(x, padding)
    torch.testing.assert_close(norm.to(dtype)(x.to(dtype), padding).float(), expected, atol=0.03, rtol=0.01)
