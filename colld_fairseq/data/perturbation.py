"""Perturbed waveforms: speed (Ko et al. 2015), volume, and noise, drawn anew every time an utterance is used."""

from dataclasses import dataclass
from typing import Optional

import numpy as np
import soxr

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.errors import AudioError


@dataclass(frozen=True)
class Perturbation:
    """Speed and volume are uniform in their ranges (of the volume: in dB), and so is the signal-to-noise ratio in dB.

    Noise is Gaussian with a spectrum that falls by 0 to 6 dB an octave: from hiss to rumble. That, the upper end of its
    range and its share of utterances are our choice.
    """

    speed: float = 0.0
    """Up to which share of it speed, and pitch with it, go up or down; 0.1 in the paper."""
    volume_db: float = 0.0
    """Up to how many dB volume goes up or down."""
    noise_db: Optional[float] = None
    """The lowest signal-to-noise ratio (dB), the highest being NOISE_RANGE_DB more; None: no noise."""
    max_samples: Optional[int] = None
    """No utterance is slowed down to more than these."""

    def __call__(self, waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A perturbed copy of a waveform [N] at 16 kHz, float32, N' samples long; AudioError for filterbanks."""
        if waveform.ndim != 1:
            raise AudioError("stored filterbanks cannot be perturbed: name the audio itself, or leave out --perturb-*")
        if self.speed:
            factor = rng.uniform(1 - self.speed, 1 + self.speed)
            if self.max_samples is not None:
                factor = max(factor, min(1.0, len(waveform) / self.max_samples))
            waveform = soxr.resample(waveform, SAMPLE_RATE * factor, SAMPLE_RATE)
        if self.noise_db is not None and rng.random() < NOISY_SHARE:
            waveform = add_noise(waveform, rng.uniform(self.noise_db, self.noise_db + NOISE_RANGE_DB), rng)
        if self.volume_db:
            waveform = waveform * 10 ** (rng.uniform(-self.volume_db, self.volume_db) / 20)
        return waveform.astype(np.float32)


NOISE_RANGE_DB = 30.0
NOISY_SHARE = 0.5


def add_noise(waveform: np.ndarray, ratio_db: float, rng: np.random.Generator) -> np.ndarray:
    """A waveform [N] with colored noise at this signal-to-noise ratio; silence stays silent."""
    if len(waveform) < 2:
        return waveform
    spectrum = np.fft.rfft(rng.standard_normal(len(waveform)))
    tilt = np.arange(1, len(spectrum) + 1) ** -rng.uniform(0.0, 1.0)  # amplitudes: 6 dB an octave is 1 / f
    noise = np.fft.irfft(spectrum * tilt, len(waveform))
    scale = np.sqrt(np.mean(np.square(waveform, dtype=np.float64)) / np.mean(np.square(noise)))
    return waveform + noise * scale * 10 ** (-ratio_db / 20)
