"""What options say of an encoder's input, beside what its checkpoint says."""

from dataclasses import dataclass, replace
from typing import Optional

from colld_fairseq.checkpoints.statistics import NAMED, fbank_input
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.input_config import InputConfig


@dataclass
class InputOptions:
    """What --cmvn, --normalize-waveform and --fbank say of an encoder's input; None = nothing."""

    cmvn: Optional[str] = None
    normalize_waveform: Optional[bool] = None
    fbank: Optional[str] = None

    def of(self, kind: str, usual: Optional[InputConfig] = None) -> Optional[InputConfig]:
        """The input of this kind that the options describe, if they do; ConfigError where it cannot be.

        usual: what holds where they say nothing; filterbanks normalized over the utterance by default.
        """
        if kind == "fbank":
            return self._filterbanks(usual)
        if self.fbank:
            takes = "waveforms" if kind == "waveform" else "Whisper's log-mels"
            raise ConfigError(f"--fbank {self.fbank}: this student takes {takes}, no filterbanks")
        if kind == "log_mel" and (self.cmvn or self.normalize_waveform):
            raise ConfigError("--cmvn, --normalize-waveform: Whisper's log-mels are normalized by their definition")
        if kind == "log_mel":
            return None
        if self.cmvn and self.cmvn not in NAMED:
            raise ConfigError(f"--cmvn {self.cmvn}: this student takes waveforms, which have no such statistics")
        return None if self.normalize_waveform is None else InputConfig.waveforms(self.normalize_waveform)

    def _filterbanks(self, usual: Optional[InputConfig]) -> Optional[InputConfig]:
        if self.normalize_waveform:
            raise ConfigError("--normalize-waveform: this student takes filterbanks, which --cmvn normalizes")
        usual = usual or InputConfig()
        if self.cmvn:
            named = self.cmvn in NAMED  # files of statistics say of which variant they are
            return fbank_input(self.cmvn, usual.bins, self.fbank or (usual.fbank if named else None))
        return replace(usual, fbank=self.fbank) if self.fbank else None

    def settle(
        self, kind: str, known: Optional[InputConfig], file: str, default: Optional[InputConfig] = None
    ) -> InputConfig:
        """The input of an encoder: what is known of it, else what the options say, else `default`, else filterbanks
        normalized over the utterance, or waveforms as they are.

        Raises ConfigError where the options contradict what `file` says, AudioError where they contradict each other.
        """
        said = self.of(kind, known or default)
        if known is None and kind == "log_mel":
            return InputConfig("log_mel", normalization="none")
        if known is None:
            self._check_statistics(said, default)
            return said or default or (fbank_input("utterance") if kind == "fbank" else InputConfig.waveforms(False))
        if said is not None and replace(said, variance_floor=known.variance_floor) != known:
            raise ConfigError(
                f"{self._given(kind)} asks for {said}, but {file} was trained on {known}: leave the option out"
            )
        return known

    def _check_statistics(self, said: Optional[InputConfig], default: Optional[InputConfig]) -> None:
        """Raises ConfigError where the variant is given, but `default` says the statistics of another."""
        if said and default and said.mean and said.mean == default.mean and said.fbank != default.fbank:
            raise ConfigError(
                f"--fbank {said.fbank}, but the data's statistics are of {default.fbank} filterbanks: give --cmvn FILE,"
                f" made by `colld cmvn --fbank {said.fbank}`, too"
            )

    def _given(self, kind: str) -> str:
        """The options that say something of this kind of input, for messages."""
        if kind == "waveform":
            return f"normalize_waveform={self.normalize_waveform}"
        options = {"--fbank": self.fbank, "--cmvn": self.cmvn}
        return " ".join(f"{name} {value}" for name, value in options.items() if value)
