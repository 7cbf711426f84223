"""What a student takes in: a waveform becomes the array that its front-end takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from colld_fairseq.data.audio import check_samples
from colld_fairseq.data.fbank import GlobalCmvn, fbank_length, log_mel_fbank, utterance_cmvn
from colld_fairseq.data.log_mel import WhisperInput
from colld_fairseq.data.stored_fbank import STORED_VARIANT
from colld_fairseq.errors import AudioError
from colld_fairseq.modules.input_config import InputConfig


@dataclass
class StudentInput:
    """Turns waveforms [N] (16 kHz) into what `config` describes: filterbanks or log-mels [T, bins] at 100 Hz, or
    samples [N].

    Stored filterbanks [T, bins], which are of the variant "kaldi", may take the waveform's place where `config`
    describes such.

    AudioError for samples that are NaN, infinite or absurdly large.
    """

    config: InputConfig = field(default_factory=InputConfig)

    def __post_init__(self) -> None:
        self._statistics = GlobalCmvn(np.array(self.config.mean), np.array(self.config.std))
        self._log_mel = WhisperInput(self.config)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        if waveform.ndim == 2:
            if (self.config.kind, self.config.fbank) != ("fbank", STORED_VARIANT):
                raise AudioError(
                    f"stored {STORED_VARIANT} filterbanks, but this student takes {self.config}: name the audio itself"
                )
            return self.normalize(waveform)
        if self.config.kind == "fbank":
            return self.normalize(log_mel_fbank(waveform, self.config.bins, self.config.fbank))
        check_samples(waveform, "waveform")
        if self.config.kind == "log_mel":
            return self._log_mel(waveform)
        if self.config.normalization == "none":
            return waveform
        return normalize_waveform(waveform, self.config.variance_floor)

    @property
    def max_samples(self) -> float:
        """Of the longest waveform that it takes."""
        return self._log_mel.log_mel.max_samples if self.config.kind == "log_mel" else math.inf

    def lengths(self, samples: Tensor) -> Tensor:
        """Lengths of what is made of so many samples, int64 [B]: frames, or the samples themselves."""
        if self.config.kind == "log_mel":
            return self._log_mel.lengths(samples)
        return fbank_length(samples, self.config.fbank) if self.config.kind == "fbank" else samples

    def normalize(self, features: np.ndarray) -> np.ndarray:
        """Filterbanks [T, bins] as the student takes them; but for "utterance", frame by frame."""
        if self.config.normalization == "corpus":
            return self._statistics(features)
        return utterance_cmvn(features) if self.config.normalization == "utterance" else features


def normalize_waveform(waveform: np.ndarray, variance_floor: float = 1e-5) -> np.ndarray:
    """Zero mean, unit variance over the utterance."""
    centered = waveform - waveform.mean()
    return (centered / np.sqrt(centered.var() + variance_floor)).astype(np.float32)
