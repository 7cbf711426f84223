"""What the student hears: a waveform in, the array its front-end takes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from colld_fairseq.data.augment import SpecAugment
from colld_fairseq.data.fbank import GlobalCmvn, log_mel_fbank, utterance_cmvn


@dataclass
class StudentInput:
    """Turns waveforms [N] (16 kHz) into the student's input: fbank [T, 80] at 100 Hz, or the waveform [N] itself.

    `cmvn` (for filterbanks): "utterance" (mean and variance of the clip), "none", or the path of a file written by
    `GlobalCmvn.save`. `normalize` (for waveforms): zero mean and unit variance over the clip, as layer-norm
    front-ends of HuBERT / wav2vec 2.0 expect; off unless asked for (fairseq's S2T forces it on by mistake).
    """

    kind: str = "fbank"
    cmvn: str = "utterance"
    normalize: bool = False
    spec_augment: Optional[SpecAugment] = None
    _global_cmvn: Optional[GlobalCmvn] = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.kind == "fbank" and self.cmvn not in ("utterance", "none"):
            self._global_cmvn = GlobalCmvn.load(self.cmvn)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        if self.kind == "waveform":
            return standardize(waveform) if self.normalize else waveform
        return self.normalise(log_mel_fbank(waveform))

    def normalise(self, features: np.ndarray) -> np.ndarray:
        """Filterbanks [T, F] as the student takes them; but for "utterance", frame by frame."""
        if self._global_cmvn is not None:
            return self._global_cmvn(features)
        return utterance_cmvn(features) if self.cmvn == "utterance" else features

    def agrees_with(self, other: StudentInput) -> bool:
        """Whether both make the same of a waveform, before augmentation."""
        return (self.kind, self.cmvn, self.normalize) == (other.kind, other.cmvn, other.normalize)

    def augment(self, source: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Training only: SpecAugment, where it is asked for and the input is a filterbank."""
        if self.spec_augment is None or self.kind == "waveform":
            return source
        return self.spec_augment(source, generator)


def standardize(waveform: np.ndarray) -> np.ndarray:
    """Zero mean, unit variance over the clip (epsilon 1e-5 as torch's layer_norm)."""
    centred = waveform - waveform.mean()
    return (centred / np.sqrt(centred.var() + 1e-5)).astype(np.float32)
