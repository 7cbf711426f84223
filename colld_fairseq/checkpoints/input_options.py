"""What options say of an encoder's input, beside what its checkpoint says."""

from dataclasses import dataclass, replace
from typing import Optional

from colld_fairseq.checkpoints.statistics import NAMED, fbank_input
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.input_config import InputConfig


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
        if kind == "log_mel" and (self.cmvn or self.normalize_waveform):
            raise ConfigError("--cmvn, --normalize-waveform: Whisper's log-mels are normalized by their definition")
        if kind == "log_mel":
            return None
        if self.cmvn and self.cmvn not in NAMED:
            raise ConfigError(f"--cmvn {self.cmvn}: this student takes waveforms, which have no such statistics")
        return None if self.normalize_waveform is None else InputConfig.waveforms(self.normalize_waveform)

    def settle(
        self, kind: str, known: Optional[InputConfig], file: str, default: Optional[InputConfig] = None
    ) -> InputConfig:
        """The input of an encoder: what is known of it, else what the options say, else `default`, else filterbanks
        normalized over the utterance, or waveforms as they are.

        Raises ConfigError where the options contradict what `file` says.
        """
        said = self.of(kind)
        if known is None and kind == "log_mel":
            return InputConfig("log_mel", normalization="none")
        if known is None:
            return said or default or (fbank_input("utterance") if kind == "fbank" else InputConfig.waveforms(False))
        if said is not None and replace(said, variance_floor=known.variance_floor) != known:
            option = f"--cmvn {self.cmvn}" if kind == "fbank" else f"normalize_waveform={self.normalize_waveform}"
            raise ConfigError(f"{option} asks for {said}, but {file} was trained on {known}: leave the option out")
        return known
