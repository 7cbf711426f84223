"""Log-mel filterbanks as Kaldi makes them (by kaldi-native-fbank), and their normalization (CMVN)."""

from dataclasses import dataclass
from typing import Any, Iterable

import kaldi_native_fbank
import numpy as np

from colld_fairseq.constants import NUM_BINS, SAMPLE_RATE, SHIFT, WINDOW
from colld_fairseq.data.audio import check_samples
from colld_fairseq.errors import AudioError

_KALDI_SCALE = 32768.0  # Kaldi's waveforms are 16-bit integers
_STD_FLOOR = 1e-5  # a constant channel stays 0 instead of becoming inf


def fbank_length(num_samples: Any) -> Any:
    """Frames of `num_samples` (int, array or tensor) at 16 kHz: as many as 25 ms windows fit, as snip_edges does."""
    frames = 1 + (num_samples - WINDOW) // SHIFT
    return frames * (frames > 0)


def fbank_samples(frames: Any) -> Any:
    """Samples (int or array) that so many filterbank frames take at least: `fbank_length` gives the frames again."""
    return (WINDOW + (frames - 1) * SHIFT) * (frames > 0)


def log_mel_fbank(waveform: np.ndarray, num_bins: int = NUM_BINS) -> np.ndarray:
    """Natural log of the mel energies of a waveform [N] in [-1, 1] at 16 kHz: float32 [T, num_bins].

    Kaldi's defaults (Povey window, pre-emphasis 0.97, DC removal, 20 Hz to 8 kHz, power spectrum) without dither, so
    that the same utterance always gives the same features. T = fbank_length(N); utterances under 25 ms give 0 frames.
    """
    if waveform.ndim != 1:
        raise AudioError(f"a filterbank needs a mono waveform [N], not an array of shape {waveform.shape}")
    extractor = kaldi_extractor(num_bins)
    extractor.accept_waveform(SAMPLE_RATE, kaldi_samples(waveform))
    extractor.input_finished()
    frames = [extractor.get_frame(frame) for frame in range(extractor.num_frames_ready)]
    return np.array(frames, dtype=np.float32).reshape(-1, num_bins)


def kaldi_extractor(num_bins: int) -> kaldi_native_fbank.OnlineFbank:
    """Kaldi's filterbanks with the options of `log_mel_fbank`."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = num_bins
    return kaldi_native_fbank.OnlineFbank(options)


def kaldi_samples(waveform: np.ndarray) -> memoryview:
    """Samples [N] in [-1, 1] on Kaldi's scale.

    The library takes samples one by one; those of a memoryview are floats, an array's are objects and cost as much as
    half of the transform. AudioError if one of them is NaN, infinite or absurdly large: the filterbanks would be NaN.
    """
    check_samples(waveform, "waveform")
    return memoryview(np.ascontiguousarray(waveform, dtype=np.float32) * np.float32(_KALDI_SCALE))


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

    def save(self, path: str) -> None:
        """Writes an .npz with `mean` and `std`, under exactly this name and complete or not at all."""
        from colld_fairseq.checkpoints.statistics import (
            write_statistics,
        )  # commands that read no such file start sooner

        write_statistics(path, self.mean, self.std)

    @classmethod
    def load(cls, path: str, num_bins: int = NUM_BINS) -> "GlobalCmvn":
        """Read what `save` wrote; AudioError if it is missing, lacks an array, or is of other filterbanks."""
        from colld_fairseq.checkpoints.statistics import read_statistics

        return cls(*read_statistics(path, num_bins))
