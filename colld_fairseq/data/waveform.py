"""Audio as Python users hold it, as the waveform that models take: float32 [N] at 16 kHz."""

from typing import Any

import numpy as np
import soxr

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.errors import AudioError

_WANTED = "give mono samples [N] or [1, N]: floats in [-1, 1], or integers of 8, 16 or 32 bits"
# Quiet zero and full scale of the integer types.
_SCALES = {"uint8": (128, 1 << 7), "int8": (0, 1 << 7), "int16": (0, 1 << 15), "int32": (0, 1 << 31)}


def as_waveform(audio: Any, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """float32 [N] at 16 kHz of a list, array or tensor [N] or [1, N], of floats or of integers of 8, 16 or 32 bits.

    sample_rate: of `audio`, in Hz; resampled with soxr "HQ", as files are. Raises AudioError that says what is wanted.
    """
    samples = as_samples(audio)
    if check_rate(sample_rate) != SAMPLE_RATE and len(samples):
        samples = soxr.resample(samples, sample_rate, SAMPLE_RATE, quality="HQ")
    return samples


def as_samples(audio: Any) -> np.ndarray:
    """float32 [N] at the rate of `audio`; see `as_waveform`."""
    if hasattr(audio, "detach"):  # a tensor, on any device
        audio = audio.detach().cpu()
        audio = audio.float().numpy() if audio.is_floating_point() else audio.numpy()
    try:
        samples = np.asarray(audio)
    except ValueError as error:
        raise AudioError(f"this is no array of samples ({error}); {_WANTED}") from error
    if samples.ndim == 2 and 1 in samples.shape:
        samples = samples.reshape(-1)
    if samples.ndim != 1:
        raise AudioError(f"audio of shape {samples.shape}; {_WANTED}: average several channels")
    if samples.dtype.name in _SCALES:
        zero, full = _SCALES[samples.dtype.name]
        samples = (samples.astype(np.float64) - zero) / full
    elif not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"audio of type {samples.dtype}, whose full scale is not known; {_WANTED}")
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise AudioError("audio with samples that are NaN or infinite")
    return samples


def check_rate(sample_rate: int) -> int:
    """The rate itself; AudioError unless it is a whole number of Hz above 0."""
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, (int, np.integer)) or sample_rate < 1:
        raise AudioError(f"sample_rate {sample_rate!r}: give the rate of the audio in Hz, a whole number such as 44100")
    return int(sample_rate)
