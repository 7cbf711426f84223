"""Log-mel filterbanks as Kaldi makes them (by kaldi-native-fbank), and their normalization (CMVN).

Both variants have frames of 25 ms every 10 ms, DC removal, pre-emphasis 0.97, the Povey window, a power spectrum, mel
bins from 20 Hz and no dither; energies below 1.2e-7 count as 1.2e-7.

    variant   samples          mel bins up to   frames of N samples   which energies are so low
    kaldi     [-1, 1] x 2^15   8000 Hz          1 + (N - 400) // 160  those of zeros
    icefall   [-1, 1]          7600 Hz          (N + 80) // 160       those of noise in the last of 16 bits, too

The frames of "kaldi" lie within the utterance; those of "icefall" are centered in their 10 ms, and what they lack at
both ends is the utterance mirrored there.
"""

from dataclasses import dataclass
from typing import Any, Iterable, NamedTuple

import kaldi_native_fbank
import numpy as np

from colld_fairseq.constants import NUM_BINS, SAMPLE_RATE, SHIFT, WINDOW
from colld_fairseq.data.audio import check_samples
from colld_fairseq.errors import AudioError


class Variant(NamedTuple):
    """What distinguishes the filterbanks that `InputConfig.fbank` names."""

    scale: float
    """Of samples; Kaldi's waveforms are 16-bit integers."""
    high_freq: float
    """Upper end of the mel bins, in Hz below half the sampling rate (negative, or 0)."""
    snip_edges: bool
    """Whether frames lie within the utterance."""


VARIANTS = {"kaldi": Variant(32768.0, 0.0, True), "icefall": Variant(1.0, -400.0, False)}
_STD_FLOOR = 1e-5  # a constant channel stays 0 instead of becoming inf


def fbank_length(num_samples: Any, variant: str = "kaldi") -> Any:
    """Frames of `num_samples` (int, array or tensor) at 16 kHz: as many as 25 ms windows fit, or ("icefall") as many as
    steps of 10 ms, rounded."""
    if not VARIANTS[variant].snip_edges:
        return (num_samples + SHIFT // 2) // SHIFT
    frames = 1 + (num_samples - WINDOW) // SHIFT
    return frames * (frames > 0)


def fbank_samples(frames: Any) -> Any:
    """Samples (int or array) that so many frames of "kaldi" take at least: `fbank_length` gives the frames again."""
    return (WINDOW + (frames - 1) * SHIFT) * (frames > 0)


def log_mel_fbank(waveform: np.ndarray, num_bins: int = NUM_BINS, variant: str = "kaldi") -> np.ndarray:
    """Natural log of the mel energies of a waveform [N] in [-1, 1] at 16 kHz: float32 [T, num_bins].

    The same utterance always gives the same features. T = fbank_length(N, variant); utterances under 25 ms ("icefall":
    5 ms) give 0 frames.
    """
    if waveform.ndim != 1:
        raise AudioError(f"a filterbank needs a mono waveform [N], not an array of shape {waveform.shape}")
    extractor = kaldi_extractor(num_bins, variant)
    extractor.accept_waveform(SAMPLE_RATE, kaldi_samples(waveform, variant))
    extractor.input_finished()
    frames = [extractor.get_frame(frame) for frame in range(extractor.num_frames_ready)]
    return np.array(frames, dtype=np.float32).reshape(-1, num_bins)


def kaldi_extractor(num_bins: int, variant: str = "kaldi") -> kaldi_native_fbank.OnlineFbank:
    """kaldi-native-fbank with the options of a variant."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = VARIANTS[variant].snip_edges
    options.mel_opts.high_freq = VARIANTS[variant].high_freq
    options.mel_opts.num_bins = num_bins
    return kaldi_native_fbank.OnlineFbank(options)


def kaldi_samples(waveform: np.ndarray, variant: str = "kaldi") -> memoryview:
    """Samples [N] in [-1, 1] on the scale of a variant.

    The library takes samples one by one; those of a memoryview are floats, an array's are objects and cost as much as
    half of the transform. AudioError if one of them is NaN, infinite or absurdly large: the filterbanks would be NaN.
    """
    check_samples(waveform, "waveform")
    return memoryview(np.ascontiguousarray(waveform, dtype=np.float32) * np.float32(VARIANTS[variant].scale))


def utterance_cmvn(features: np.ndarray) -> np.ndarray:
    """Features [T, F] of one utterance with mean 0 and standard deviation 1 in every channel."""
    if len(features) == 0:
        return features
    mean = features.mean(axis=0, dtype=np.float64)
    std = features.std(axis=0, dtype=np.float64)
    return ((features - mean) / np.maximum(std, _STD_FLOOR)).astype(np.float32)


@dataclass
class GlobalCmvn:
    """Normalization with the statistics of a whole corpus: `mean` [F] and `std` [F]."""

    mean: np.ndarray
    std: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Normalize features [T, F]; returns float32 [T, F]."""
        return ((features - self.mean) / np.maximum(self.std, _STD_FLOOR)).astype(np.float32)

    @classmethod
    def fit(cls, features: Iterable[np.ndarray]) -> "GlobalCmvn":
        """Statistics over the frames of all given [T, F] arrays, in float64 (merged by Chan's formula)."""
        count, mean, squares = 0, None, None
        for block in features:
            if len(block) == 0:
                continue
            block = block.astype(np.float64)
            if not np.isfinite(block).all():
                raise AudioError(
                    "filterbanks are NaN or infinite; find the audio with `colld doctor --manifest ... --decode`"
                )
            block_mean = block.mean(axis=0)
            block_squares = ((block - block_mean) ** 2).sum(axis=0)
            if mean is None:
                count, mean, squares = len(block), block_mean, block_squares
                continue
            total = count + len(block)
            delta = block_mean - mean
            mean = mean + delta * len(block) / total
            squares = squares + block_squares + delta**2 * count * len(block) / total
            count = total
        if mean is None:
            raise AudioError("no frames to take mean and variance from; give at least one utterance of 25 ms or more")
        return cls(mean=mean, std=np.sqrt(squares / count))

    def save(self, path: str, variant: str = "kaldi") -> None:
        """Writes an .npz with `mean`, `std` and the variant of the filterbanks, under exactly this name and complete or
        not at all."""
        # here: commands that read no such file start sooner
        from colld_fairseq.checkpoints.statistics import Statistics, write_statistics

        write_statistics(path, Statistics(self.mean, self.std, variant))

    @classmethod
    def load(cls, path: str, num_bins: int = NUM_BINS, variant: str = "kaldi") -> "GlobalCmvn":
        """Read what `save` wrote; AudioError if it is missing, lacks an array, or is of other filterbanks."""
        from colld_fairseq.checkpoints.statistics import read_statistics

        statistics = read_statistics(path, num_bins, variant)
        return cls(statistics.mean, statistics.std)
