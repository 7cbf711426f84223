"""What a student encoder takes in, as plain fields that its configuration carries."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Dict, List

from colld_fairseq.errors import ConfigError
from colld_fairseq.field_types import check_types

KINDS = ("waveform", "fbank", "log_mel")
FBANKS = ("kaldi", "icefall")
#: For waveforms "utterance" is zero mean and unit variance over the utterance.
NORMALIZATIONS = {"waveform": ("none", "utterance"), "fbank": ("none", "utterance", "corpus"), "log_mel": ("none",)}


@dataclass
class InputConfig:
    """How the input of an encoder is made of a waveform at 16 kHz; what cannot be raises ConfigError."""

    kind: str = "fbank"
    """"waveform" (the samples themselves), "fbank" (log-mel filterbanks at 100 Hz) or "log_mel" (Whisper's, which are
    normalized by their definition: see `data.log_mel`)."""
    fbank: str = "kaldi"
    """Filterbanks only: "kaldi" = as Kaldi computes them, "icefall" = as icefall and sherpa-onnx do by default; see
    `data.fbank`."""
    bins: int = 80
    """Filterbanks and log-mels only: mel bins."""
    normalization: str = "utterance"
    """"none"; "utterance" = mean 0 and variance 1 over the utterance (filterbanks: per bin); "corpus" (filterbanks
    only) = with `mean` and `std`."""
    mean: List[float] = field(default_factory=list)
    """"corpus" only: what is subtracted from each bin."""
    std: List[float] = field(default_factory=list)
    """"corpus" only: what each bin is divided by."""
    variance_floor: float = 1e-5
    """Waveforms only: added to the variance (torch's and fairseq's layer norm: 1e-5; transformers: 1e-7)."""
    tail_seconds: float = 0.5
    """Log-mels only: silence that follows an utterance at least, as far as the window reaches. Our choice: 0.5 (without
    any, Whisper's attention sinks fall on the speech); that of the original: up to the end of the window, 30."""
    least_seconds: float = 0.0
    """Log-mels only: so long is an utterance with its silence at least. Whisper's decoder, which knows windows of 30 s,
    loses its way in short ones."""
    window_seconds: float = 30.0
    """Log-mels only: the longest input, tail included."""

    def __post_init__(self) -> None:
        check_types(self)
        choices = {"kind": KINDS, "fbank": FBANKS, "normalization": NORMALIZATIONS.get(self.kind, ())}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                of_kind = f" of kind={self.kind!r}" if name == "normalization" else ""
                raise ConfigError(f"input{of_kind}: {name}={getattr(self, name)!r} is not known; it is one of {known}")
        if self.bins < 1:
            raise ConfigError(f"input: bins={self.bins} must be at least 1")
        self.mean, self.std = [float(value) for value in self.mean], [float(value) for value in self.std]
        needed = self.bins if self.normalization == "corpus" else 0
        if not len(self.mean) == len(self.std) == needed:
            raise ConfigError(
                f"input: {len(self.mean)} means and {len(self.std)} deviations, but normalization="
                f"{self.normalization!r} of {self.bins} bins needs {needed}"
            )
        for name in ("tail_seconds", "least_seconds"):
            if not 0 <= getattr(self, name) <= self.window_seconds:
                raise ConfigError(f"input: {name}={getattr(self, name)} must be 0 to {self.window_seconds}")
        if not all(math.isfinite(value) for value in self.mean + self.std + [self.variance_floor]):
            raise ConfigError("input: statistics that are not finite")

    def __str__(self) -> str:
        """For messages: "kaldi filterbanks normalized over the utterance", say."""
        if self.kind == "waveform":
            return "waveforms, normalized" if self.normalization == "utterance" else "waveforms as they are"
        if self.kind == "log_mel":
            least = f", {self.least_seconds:g} s at least" if self.least_seconds else ""
            return f"log-mels of {self.bins} bins with {self.tail_seconds:g} s of silence behind them{least}"
        how = {
            "none": "as they are",
            "utterance": "normalized over the utterance",
            "corpus": "normalized with the statistics of a corpus",
        }[self.normalization]
        if self.mean:
            how += f" (means {min(self.mean):.4g} to {max(self.mean):.4g})"
        return f"{self.fbank} filterbanks {how}"

    @classmethod
    def waveforms(cls, normalize: bool = False, variance_floor: float = 1e-5) -> "InputConfig":
        """Waveforms as they are, or normalized over the utterance with this floor."""
        if not normalize:
            return cls("waveform", normalization="none")
        return cls("waveform", normalization="utterance", variance_floor=variance_floor)

    def to_dict(self) -> Dict[str, Any]:
        """Plain values only."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> "InputConfig":
        """The input with these fields; ConfigError names the fields this version does not know."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigError(f"unknown input fields {unknown}; was the checkpoint written by a newer version?")
        return cls(**values)
