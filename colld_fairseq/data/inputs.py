"""What a student takes in: a waveform becomes the array that its front-end takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Optional

import numpy as np

from colld_fairseq.checkpoints.statistics import NAMED, fbank_input
from colld_fairseq.data.audio import check_samples
from colld_fairseq.data.fbank import GlobalCmvn, log_mel_fbank, utterance_cmvn
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.input_config import InputConfig


@dataclass
class StudentInput:
    """Turns waveforms [N] (16 kHz) into what `config` describes: filterbanks [T, bins] at 100 Hz, or samples [N].

    AudioError for samples that are NaN, infinite or absurdly large.
    """

    config: InputConfig = field(default_factory=InputConfig)

    def __post_init__(self) -> None:
        self._statistics = GlobalCmvn(np.array(self.config.mean), np.array(self.config.std))

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        if self.config.kind == "fbank":
            return self.normalize(log_mel_fbank(waveform, self.config.bins))
        check_samples(waveform, "waveform")
        if self.config.normalization == "none":
            return waveform
        return normalize_waveform(waveform, self.config.variance_floor)

    def normalize(self, features: np.ndarray) -> np.ndarray:
        """Filterbanks [T, bins] as the student takes them; but for "utterance", frame by frame."""
        if self.config.normalization == "corpus":
            return self._statistics(features)
        return utterance_cmvn(features) if self.config.normalization == "utterance" else features


def normalize_waveform(waveform: np.ndarray, variance_floor: float = 1e-5) -> np.ndarray:
    """Zero mean, unit variance over the utterance."""
    centered = waveform - waveform.mean()
    return (centered / np.sqrt(centered.var() + variance_floor)).astype(np.float32)


@dataclass
class InputOptions:
    """What --cmvn and --normalize-waveform say of an encoder's input; None = nothing."""

    cmvn: Optional[str] = None
    normalize_waveform: Optional[bool] = None

    def of(self, kind: str) -> Optional[InputConfig]:
        """The input of this kind that the options describe, if they do; ConfigError where it cannot be."""
        if kind == "fbank":
            if self.normalize_waveform:
                raise ConfigError("--normalize-waveform: this student takes filterbanks, which --cmvn normalizes")
            return fbank_input(self.cmvn) if self.cmvn else None
        if self.cmvn and self.cmvn not in NAMED:
            raise ConfigError(f"--cmvn {self.cmvn}: this student takes waveforms, which have no such statistics")
        return None if self.normalize_waveform is None else InputConfig.waveforms(self.normalize_waveform)

    def settle(self, kind: str, known: Optional[InputConfig], file: str) -> InputConfig:
        """The input of an encoder: what is known of it, else what the options say, else filterbanks normalized over the
        utterance, or waveforms as they are.

        Raises ConfigError where the options contradict what `file` says.
        """
        said = self.of(kind)
        if known is None:
            return said or (fbank_input("utterance") if kind == "fbank" else InputConfig.waveforms(False))
        if said is not None and replace(said, variance_floor=known.variance_floor) != known:
            option = f"--cmvn {self.cmvn}" if kind == "fbank" else f"normalize_waveform={self.normalize_waveform}"
            raise ConfigError(f"{option} asks for {said}, but {file} was trained on {known}: leave the option out")
        return known
