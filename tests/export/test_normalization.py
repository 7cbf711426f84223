"""Normalization inside graphs beside numpy's in double precision: padded batches, silence, quiet utterances."""

import numpy as np
import pytest
import torch

from colld_fairseq.data.fbank import GlobalCmvn, log_mel_fbank, utterance_cmvn
from colld_fairseq.data.inputs import normalize_waveform
from colld_fairseq.export.normalization import AfterClient, normalization_of
from colld_fairseq.modules.input_config import InputConfig

LENGTHS = [301, 300, 12, 1]


def padded(parts):
    """A batch whose padding is far from everything else, and its lengths."""
    x = torch.full((len(parts), max(map(len, parts)), *parts[0].shape[1:]), 1e4)
    for row, part in enumerate(parts):
        x[row, : len(part)] = torch.from_numpy(part)
    return x, torch.tensor([len(part) for part in parts])


def compare(config, parts, expected, atol=1e-5):
    batch, lengths = padded(parts)
    module = normalization_of(config)
    together = module(batch, lengths)
    for row, (part, own) in enumerate(zip(parts, expected)):
        np.testing.assert_allclose(together[row, : len(part)].numpy(), own, atol=atol)
        np.testing.assert_allclose(module(torch.from_numpy(part)[None])[0].numpy(), own, atol=atol)
    return together


def test_filterbanks_over_the_utterance():
    generator = np.random.default_rng(0)
    parts = [(3 * generator.standard_normal((length, 80)) - 9).astype(np.float32) for length in LENGTHS]
    together = compare(InputConfig(), parts, map(utterance_cmvn, parts))
    assert together[2, 12:].abs().max() == 0


@pytest.mark.parametrize("click", [0.0, 0.5])
def test_digital_silence(click):
    """Channels that hardly change are divided by next to nothing: what rounding leaves of them would be seen."""
    waveform = np.zeros(16000, dtype=np.float32)
    waveform[8000] = click
    features = log_mel_fbank(waveform)
    module = normalization_of(InputConfig())
    normalized = module(torch.from_numpy(features)[None])[0].numpy()
    np.testing.assert_allclose(normalized, utterance_cmvn(features), atol=2e-5)
    assert click or not normalized.any()


def test_statistics_of_a_corpus():
    generator = np.random.default_rng(1)
    mean, std = generator.standard_normal(80), generator.uniform(0.5, 4, 80)
    std[7] = 0.0  # a bin that never changed
    config = InputConfig(normalization="corpus", mean=mean.tolist(), std=std.tolist())
    parts = [generator.standard_normal((length, 80)).astype(np.float32) for length in LENGTHS]
    for part in parts:
        part[:, 7] = mean[7].astype(np.float32)
    statistics = GlobalCmvn(np.array(config.mean), np.array(config.std))
    parts_of_other_bins = [np.delete(statistics(part), 7, axis=1) for part in parts]
    batch, lengths = padded(parts)
    together = normalization_of(config)(batch, lengths).numpy()
    for row, own in enumerate(parts_of_other_bins):
        np.testing.assert_allclose(np.delete(together[row, : len(own)], 7, axis=1), own, atol=1e-5)


@pytest.mark.parametrize("floor", [1e-5, 1e-7])
@pytest.mark.parametrize("loudness", [0.3, 1e-3])
def test_waveforms(floor, loudness):
    generator = np.random.default_rng(2)
    parts = [(loudness * generator.standard_normal(n) + 0.01).astype(np.float32) for n in (16001, 9000, 401)]
    compare(InputConfig.waveforms(True, floor), parts, [normalize_waveform(part, floor) for part in parts], 2e-5)


@pytest.mark.parametrize("floor", [1e-5, 1e-7, 1e-3])
@pytest.mark.parametrize("loudness", [0.3, 3e-3, 1e-4])
def test_another_floor_than_the_client_s(floor, loudness):
    waveform = loudness * np.random.default_rng(3).standard_normal(8000)
    given = normalize_waveform(waveform, AfterClient.CLIENT_FLOOR)
    after = AfterClient(floor)(torch.from_numpy(given)[None])[0]
    np.testing.assert_allclose(after.numpy(), normalize_waveform(waveform, floor), atol=3e-5)


def test_what_is_not_normalized_stays():
    x = torch.randn(2, 5, 80)
    assert torch.equal(normalization_of(InputConfig(normalization="none"))(x, torch.tensor([5, 3])), x)
