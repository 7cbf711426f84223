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
from colld_fairseq.modules.input_config import InputConfig

HOP = 160  # samples between log-mel frames
WINDOW = 400  # samples of one log-mel frame
SAMPLES_PER_FRAME = 2 * HOP  # the encoder's second convolution halves the rate of 100 Hz
FRAMES_PER_SECOND = 50


def speech_frames(samples: Any) -> Any:
    """Encoder frames of so many samples (int or tensor), without silence."""
    return (samples // HOP + 1) // 2


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
    """Log-mels [T, bins] of single waveforms [N], with the silence of `config` behind them."""

    def __init__(self, config: InputConfig):
        seconds = (config.tail_seconds, config.least_seconds, config.window_seconds)
        self.tail, self.least, self.window = (round(value * FRAMES_PER_SECOND) for value in seconds)
        self.log_mel = LogMel(config.bins, self.window * SAMPLES_PER_FRAME)

    def frames(self, samples: Tensor) -> Tensor:
        """Encoder frames of utterances of `samples` int64 [B], with their silence."""
        return (speech_frames(samples) + self.tail).clamp(min=self.least, max=self.window)

    def lengths(self, samples: Tensor) -> Tensor:
        """Log-mel frames of utterances of `samples` int64 [B]."""
        frames = self.frames(samples)
        return frames * 2 + 1 * (frames < self.window)

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
