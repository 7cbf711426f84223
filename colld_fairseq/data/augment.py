"""SpecAugment: time and frequency masks on filterbanks (Park et al. 2019, arXiv:1904.08779)."""

import math
from dataclasses import dataclass
from typing import Optional

import numpy as np

from colld_fairseq.errors import ConfigError
from colld_fairseq.field_types import check_types


@dataclass(frozen=True)
class SpecAugment:
    """Masks blocks of frames and of mel bins; no time warping.

    Widths are uniform on 0..max as in the paper; the defaults are its LibriSpeech double policy (table 1, LD).
    """

    num_freq_masks: int = 2
    """Frequency masks per utterance."""
    max_freq_width: int = 27
    """Largest width of a frequency mask, in mel bins."""
    num_time_masks: int = 2
    """Time masks per utterance."""
    max_time_width: int = 100
    """Largest width of a time mask, in frames of 10 ms."""
    max_time_fraction: float = 1.0
    """Largest width of a time mask, as a share of the utterance: short ones keep most of their frames."""
    fill: Optional[float] = None
    """What masked values become; None = the utterance's mean."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, value in vars(self).items():
            if name != "fill" and not 0 <= value < math.inf:
                raise ConfigError(f"SpecAugment: {name} is {value}, and must be 0 or more")

    def __call__(self, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A masked copy of features [T, F]; all randomness comes from `rng`."""
        features = features.copy()
        num_frames, num_bins = features.shape
        if num_frames == 0:
            return features
        fill = features.mean() if self.fill is None else self.fill
        for _ in range(self.num_freq_masks):
            start, end = _span(rng, num_bins, self.max_freq_width)
            features[:, start:end] = fill
        widest = min(self.max_time_width, int(num_frames * self.max_time_fraction))
        for _ in range(self.num_time_masks):
            start, end = _span(rng, num_frames, widest)
            features[start:end] = fill
        return features


def _span(rng: np.random.Generator, size: int, max_width: int) -> tuple:
    width = int(rng.integers(0, min(max_width, size) + 1))
    start = int(rng.integers(0, size - width + 1))
    return start, start + width
