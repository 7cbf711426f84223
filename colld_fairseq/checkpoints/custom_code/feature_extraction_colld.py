"""Log-mel filterbanks as Kaldi or as icefall and sherpa-onnx compute them, and their normalization, in numpy."""

from typing import Any, List, Optional, Sequence, Union

import numpy as np
from numpy.typing import NDArray
from transformers import BatchFeature, SequenceFeatureExtractor

WINDOW, SHIFT, FFT = 400, 160, 512  # samples: 25 ms every 10 ms
LOW_FREQ = 20.0
#: scale of samples in [-1, 1], upper end of the mel bins (Hz), whether frames lie within the utterance
VARIANTS = {"kaldi": (32768.0, 8000.0, True), "icefall": (1.0, 7600.0, False)}
PRE_EMPHASIS = 0.97
ENERGY_FLOOR = float(np.finfo(np.float32).eps)
STD_FLOOR = 1e-5

Array = NDArray[np.float64]


class ColldFeatureExtractor(SequenceFeatureExtractor):
    """Waveforms at 16 kHz, in [-1, 1], to `input_features` float32 [B, T, feature_size] at 100 Hz.

    Args:
        fbank: "kaldi" or "icefall".
        normalization: "utterance" = each bin at mean 0 and deviation 1 over the utterance; "corpus" = with `mean` and
            `std`, one value for each bin; "none".
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 80,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        fbank: str = "kaldi",
        normalization: str = "utterance",
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        **more: Any,
    ) -> None:
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **more)
        self.fbank = fbank
        self.normalization = normalization
        self.mean = list(mean)
        self.std = list(std)
        self.return_attention_mask = True
        self.window = povey_window()  # transformers leaves out what is called so when it writes the settings
        self.mel_filters = mel_filters(feature_size, VARIANTS[fbank][1], sampling_rate)

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: Optional[int] = None,
        padding: Union[bool, str] = True,
        max_length: Optional[int] = None,
        truncation: bool = False,
        pad_to_multiple_of: Optional[int] = None,
        return_attention_mask: Optional[bool] = None,
        return_tensors: Optional[str] = None,
        **unused: Any,
    ) -> BatchFeature:
        """Features of a waveform [N], or of a list of them, padded with zeros; `attention_mask` is 0 on padding."""
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(f"the audio has {sampling_rate} Hz; this model takes {self.sampling_rate} Hz")
        several = isinstance(raw_speech, (list, tuple)) and len(raw_speech) > 0 and np.ndim(raw_speech[0]) > 0
        waveforms = raw_speech if several or np.ndim(raw_speech) > 1 else [raw_speech]
        features: List[NDArray[np.float32]] = [self.features(np.asarray(waveform)) for waveform in waveforms]
        return self.pad(
            BatchFeature({"input_features": features}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=True if return_attention_mask is None else return_attention_mask,
            return_tensors=return_tensors,
        )

    def features(self, waveform: NDArray[Any]) -> NDArray[np.float32]:
        """Normalized filterbanks [T, feature_size] of one waveform [N]."""
        if waveform.ndim != 1:
            raise ValueError(f"expected mono audio [samples], not an array of shape {waveform.shape}")
        scale, _, within = VARIANTS[self.fbank]
        frames = cut_frames(waveform.astype(np.float32).astype(np.float64) * scale, within)
        x = log_mel(frames, self.window, self.mel_filters)
        if self.normalization == "corpus":
            x = (x - np.array(self.mean)) / np.maximum(self.std, STD_FLOOR)
        elif self.normalization == "utterance" and len(x):
            x = (x - x.mean(0)) / np.maximum(x.std(0), STD_FLOOR)
        return x.astype(np.float32)


def cut_frames(samples: Array, within: bool) -> Array:
    """Windows [T, 400] of samples [N]: those within the utterance, or centered in steps of 10 ms, with the utterance
    mirrored at its ends."""
    if within:
        count = max(0, 1 + (len(samples) - WINDOW) // SHIFT)
        first = 0
    else:
        count = (len(samples) + SHIFT // 2) // SHIFT
        first = SHIFT // 2 - WINDOW // 2
    positions = first + SHIFT * np.arange(count)[:, None] + np.arange(WINDOW)
    if not within and len(samples):
        positions = positions % (2 * len(samples))  # mirrored with the last sample repeated: of period 2 N
        positions = np.minimum(positions, 2 * len(samples) - 1 - positions)
    return samples[positions]


def log_mel(frames: Array, window: Array, filters: Array) -> Array:
    """Natural log of the mel energies [T, bins] of windows of samples [T, 400]."""
    frames = frames - frames.mean(1, keepdims=True)
    previous = np.concatenate((frames[:, :1], frames[:, :-1]), axis=1)
    spectrum = np.fft.rfft((frames - PRE_EMPHASIS * previous) * window, FFT)
    energies = (spectrum.real**2 + spectrum.imag**2) @ filters
    return np.log(np.maximum(energies, ENERGY_FLOOR))


def povey_window() -> Array:
    """A Hann window to the power of 0.85, [400]."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))) ** 0.85


def mel_filters(bins: int, high_freq: float, sampling_rate: int) -> Array:
    """Triangles on the mel scale as Kaldi has them, [FFT / 2 + 1, bins]."""
    frequencies = np.arange(FFT // 2) * sampling_rate / FFT
    low, high = mel(np.array([LOW_FREQ, high_freq]))
    edges = np.linspace(low, high, bins + 2)
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    position = mel(frequencies)[:, None]
    triangles = np.minimum((position - left) / (center - left), (right - position) / (right - center)).clip(min=0)
    return np.concatenate((triangles, np.zeros((1, bins))))  # nothing of half the sampling rate itself


def mel(frequency: Array) -> Array:
    """Kaldi's mel scale, of frequencies in Hz."""
    return 1127.0 * np.log(1.0 + frequency / 700.0)
