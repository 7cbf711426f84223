"""Perturbed waveforms: how long, how loud, how noisy; by the generator alone."""

import numpy as np
import pytest

from colld_fairseq.data.perturbation import Perturbation, add_noise
from colld_fairseq.errors import AudioError

RATE = 16000


def tone(hz=500.0, seconds=1.0):
    return (0.1 * np.sin(2 * np.pi * hz * np.arange(int(RATE * seconds)) / RATE)).astype(np.float32)


def pitch(waveform):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return np.argmax(spectrum) * RATE / len(waveform)


def draws(perturbation, waveform, count=200):
    return [perturbation(waveform, np.random.default_rng(seed)) for seed in range(count)]


def test_speed_and_pitch_move_together():
    results = draws(Perturbation(speed=0.1), tone())
    factors = np.array([RATE / len(result) for result in results])
    assert 0.9 <= factors.min() < 0.92 and 1.08 < factors.max() <= 1.1
    for result, factor in zip(results[:20], factors):
        assert pitch(result) == pytest.approx(500 * factor, abs=1.5)
        assert result.dtype == np.float32 and np.abs(result).max() == pytest.approx(0.1, rel=0.1)


def test_no_utterance_becomes_longer_than_the_limit():
    lengths = [len(result) for result in draws(Perturbation(speed=0.1, max_samples=16800), tone())]
    assert max(lengths) <= 16801 and min(lengths) < 15000
    assert all(len(r) <= RATE for r in draws(Perturbation(speed=0.1, max_samples=8000), tone(), 20))  # never slower


def test_volume_is_uniform_in_decibels():
    levels = np.array([20 * np.log10(result.max() / 0.1) for result in draws(Perturbation(volume_db=6.0), tone())])
    assert -6.01 < levels.min() < -5.5 and 5.5 < levels.max() < 6.01 and abs(levels.mean()) < 0.8


def test_noise_of_the_ratio_that_is_asked_for():
    waveform = tone()
    for ratio in (0.0, 20.0):
        noise = add_noise(waveform, ratio, np.random.default_rng(1)) - waveform
        assert 10 * np.log10(np.mean(waveform**2) / np.mean(noise**2)) == pytest.approx(ratio, abs=1e-3)
    noises = [result - waveform for result in draws(Perturbation(noise_db=10.0), waveform)]
    noisy = [noise for noise in noises if noise.any()]
    assert 70 < len(noisy) < 130
    ratios = np.array([10 * np.log10(np.mean(waveform**2) / np.mean(noise**2)) for noise in noisy])
    assert 9.99 < ratios.min() < 13 and 37 < ratios.max() < 40.01
    slopes = [low_over_high(noise) for noise in noisy]
    assert min(slopes) < 3 and max(slopes) > 10  # dB: from hiss to rumble


def low_over_high(noise):
    power = np.abs(np.fft.rfft(noise)) ** 2
    return 10 * np.log10(power[100:1000].mean() / power[4000:].mean())


def test_silence_and_nothing_stay_what_they_are():
    everything = Perturbation(0.1, 6.0, 0.0)
    for seed in range(10):
        assert not everything(np.zeros(1000, np.float32), np.random.default_rng(seed)).any()
        assert len(everything(np.zeros(0, np.float32), np.random.default_rng(seed))) == 0
        assert len(everything(np.ones(1, np.float32), np.random.default_rng(seed))) <= 1


def test_the_given_waveform_is_not_changed():
    waveform = tone()
    draws(Perturbation(0.1, 6.0, 0.0), waveform, 20)
    assert np.array_equal(waveform, tone())


def test_stored_filterbanks_are_refused():
    with pytest.raises(AudioError, match="perturb"):
        Perturbation(0.1)(np.zeros((100, 80), np.float32), np.random.default_rng(1))
