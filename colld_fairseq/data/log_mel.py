"""Whisper's log-mel input (Radford et al. 2022), of an utterance's own length instead of always 30 s.

An utterance of N samples has ceil(floor(N / 160) / 2) encoder frames of 20 ms, and those of the silence behind it: an
encoder that was trained on windows padded with silence puts its attention sinks there. Its log-mels are those two per
encoder frame, and one more, which the last encoder frame sees; at the end of the window there is nothing more to see.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from colld_fairseq.errors import AudioError

HOP = 160  # samples between log-mel frames
WINDOW = 400  # samples of one log-mel frame
SAMPLES_PER_FRAME = 2 * HOP  # the encoder's second convolution halves the rate of 100 Hz
FRAMES_PER_SECOND = 50


def speech_frames(samples: Any) -> Any:
    """Encoder frames of so many samples (int or tensor), without silence."""
    return (samples // HOP + 1) // 2


def attended_frames(samples: Tensor, tail: int, window: int) -> Tensor:
    """Encoder frames of utterances of `samples` int64 [B] with `tail` frames of silence, at most `window`."""
    return (speech_frames(samples) + tail).clamp(max=window)


def log_mel_frames(frames: Any, window: int) -> Any:
    """Log-mel frames that so many encoder frames (int or tensor) see."""
    return frames * 2 + 1 * (frames < window)


class LogMel:
    """What transformers' WhisperFeatureExtractor computes for utterances padded to `max_samples`, batched."""

    def __init__(self, bins: int, max_samples: int):
        self.bins, self.max_samples = bins, max_samples

    @cached_property
    def filters(self) -> Tensor:
        """[bins, 201], float32."""
        from transformers.audio_utils import mel_filter_bank

        filters = mel_filter_bank(
            num_frequency_bins=1 + WINDOW // 2,
            num_mel_filters=self.bins,
            min_frequency=0.0,
            max_frequency=8000.0,
            sampling_rate=16000,
            norm="slaney",
            mel_scale="slaney",
        )
        return torch.from_numpy(filters).float().t().contiguous()

    def __call__(self, waveforms: Tensor, num_frames: int) -> Tensor:
        """[B, num_frames, bins] of float32 waveforms [B, N], zero beyond each utterance, N <= max_samples.

        num_frames must reach 3 frames beyond the longest utterance, or to the end of the window: the dynamic range
        is cut at 8 below the loudest value of the utterance, so no frame that holds some of it may be left out.
        """
        window = torch.hann_window(WINDOW, device=waveforms.device)
        total = min(self.max_samples, num_frames * HOP + WINDOW)
        waveforms = F.pad(waveforms, (0, total - waveforms.size(1)))
        spectrum = torch.stft(waveforms, WINDOW, HOP, window=window, return_complex=True)
        spectrum = torch.view_as_real(spectrum[..., :num_frames])
        mel = self.filters.to(waveforms.device) @ spectrum.square().sum(-1)
        log_mel = mel.clamp(min=1e-10).log10()
        floor = log_mel.amax(dim=(1, 2), keepdim=True) - 8.0
        return ((torch.maximum(log_mel, floor) + 4.0) / 4.0).transpose(1, 2)


class WhisperInput:
    """Log-mels [T, bins] of single waveforms [N], with a tail of silence, for an encoder with a window."""

    def __init__(self, bins: int, tail_seconds: float, window_seconds: float):
        self.tail, self.window = (round(seconds * FRAMES_PER_SECOND) for seconds in (tail_seconds, window_seconds))
        self.log_mel = LogMel(bins, self.window * SAMPLES_PER_FRAME)

    def lengths(self, samples: Tensor) -> Tensor:
        """Log-mel frames of utterances of `samples` int64 [B]."""
        return log_mel_frames(attended_frames(samples, self.tail, self.window), self.window)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        if len(waveform) > self.log_mel.max_samples:
            raise AudioError(
                f"an utterance of {len(waveform) / 16000:.1f} s, but this encoder takes in at most"
                f" {self.window / FRAMES_PER_SECOND:g} s: cut it"
            )
        frames = int(self.lengths(torch.tensor([len(waveform)])))
        # The loudest value is looked for in all frames that hold some of the utterance.
        needed = max(frames, min(2 * self.window, len(waveform) // HOP + 3))
        waveform = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
        return self.log_mel(waveform[None], needed)[0, :frames].numpy()
