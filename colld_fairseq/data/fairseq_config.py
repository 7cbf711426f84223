"""What the config.yaml of data that fairseq's speech-to-text scripts made says of audio and filterbanks.

fairseq reads it as `S2TDataConfig` (fairseq/data/audio/data_cfg.py) and applies it as `feature_transforms` there. What
it says of text is read by `data.text`. The config.yaml of `colld vocab` says nothing here.
"""

import os
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from colld_fairseq.checkpoints.statistics import fbank_input
from colld_fairseq.compat import absolute_path
from colld_fairseq.data.augment import SpecAugment
from colld_fairseq.data.text import file_beside, read_vocabulary_config
from colld_fairseq.errors import ConfigError
from colld_fairseq.field_types import is_of
from colld_fairseq.modules.input_config import InputConfig

CONFIG_YAML = "config.yaml"
_CMVN = ("utterance_cmvn", "global_cmvn")
_SPECAUGMENT = "specaugment"
_KINDS = {
    "audio_root": Optional[str],
    "use_audio_input": Optional[bool],
    "standardize_audio": Optional[bool],
    "input_feat_per_channel": Optional[int],
    "sampling_alpha": Optional[float],
    "transforms": Optional[Dict[str, Optional[List[str]]]],
    "feature_transforms": Optional[Dict[str, Optional[List[str]]]],
    "utterance_cmvn": Optional[Dict[str, bool]],
    "global_cmvn": Optional[Dict[str, str]],
    "specaugment": Optional[Dict[str, Optional[float]]],
}
_WHOLE = ("norm_means", "norm_vars")  # options of utterance_cmvn, both on unless switched off


@dataclass
class FairseqDataConfig:
    """Made by `read_data_config`; each property raises ConfigError where the file asks for what is not known here."""

    path: str
    values: Dict[str, Any] = field(default_factory=dict)

    @property
    def audio_root(self) -> Optional[str]:
        """Folder that audio paths are relative to, absolute; a relative one is taken from the file's folder."""
        root = self.values.get("audio_root")
        return os.path.join(os.path.dirname(self.path), os.path.expanduser(root)) if root else None

    @property
    def uses_audio(self) -> bool:
        """Whether models take waveforms; fairseq then transforms no filterbanks."""
        return bool(self.values.get("use_audio_input"))

    @property
    def not_applied(self) -> List[str]:
        """What it asks for that is left out here."""
        names = [name for name in ("waveform_transforms", "dataset_transforms") if self.values.get(name)]
        return names + ["sampling_alpha"] * (self.values.get("sampling_alpha", 1.0) != 1.0)

    def input_of(self, kind: str, split: str) -> Optional[InputConfig]:
        """The input of some kind that a split's transforms make; None where the file does not say."""
        if kind == "waveform":
            return InputConfig.waveforms(True) if self.uses_audio and self.values.get("standardize_audio") else None
        if kind != "fbank" or self.uses_audio or not any(self._tables()):
            return None
        bins = self.values.get("input_feat_per_channel", InputConfig().bins)
        cmvn = [name for name in self._transforms(split) if name in _CMVN]
        if not cmvn:
            return InputConfig(bins=bins, normalization="none")
        if cmvn == ["utterance_cmvn"]:
            if not all((self.values.get("utterance_cmvn") or {}).get(name, True) for name in _WHOLE):
                raise ConfigError(f"{self.path}: utterance_cmvn without means or variances is not known here")
            return InputConfig(bins=bins, normalization="utterance")
        statistics = (self.values.get("global_cmvn") or {}).get("stats_npz_path")
        if not statistics:
            raise ConfigError(f"{self.path}: global_cmvn, but no stats_npz_path; write it below global_cmvn")
        return fbank_input(file_beside(self.path, statistics), bins)

    def spec_augment(self, split: str) -> Optional[SpecAugment]:
        """What is masked in the filterbanks of a split, if anything."""
        values = self.values.get(_SPECAUGMENT) or {}
        if self.uses_audio or _SPECAUGMENT not in self._transforms(split, train=True):
            return None
        if values.get("time_warp_W"):
            raise ConfigError(
                f"{self.path}: specaugment with time_warp_W={values['time_warp_W']}, but time is not warped here; "
                "set it to 0, or give --specaug-freq-masks and --specaug-time-masks"
            )
        return SpecAugment(
            num_freq_masks=values.get("freq_mask_N", 0),
            max_freq_width=values.get("freq_mask_F", 0),
            num_time_masks=values.get("time_mask_N", 0),
            max_time_width=values.get("time_mask_T", 0),
            max_time_fraction=values.get("time_mask_p", 0.0),
            fill=values.get("mask_value"),
        )

    def _tables(self) -> List[Dict[str, List[str]]]:
        """Names of transforms by split; `transforms` is fairseq's former name of `feature_transforms`."""
        return [self.values.get(name) or {} for name in ("transforms", "feature_transforms")]

    def _transforms(self, split: str, train: bool = False) -> List[str]:
        """Of the filterbanks of a split, in order: those of its name, else of all such splits, else of all. A split is
        trained on if it is said to be, or as fairseq has it, by its name."""
        keys = (split, "_train" if train or split.startswith("train") else "_eval", "*")
        names: List[str] = []
        for table in self._tables():
            names += next((table[key] for key in keys if table.get(key) is not None), [])
        cmvn = [name for name in names if name in _CMVN]
        if len(cmvn) > 1 or names not in (cmvn, [*cmvn, _SPECAUGMENT]):
            raise ConfigError(
                f"{self.path}: transforms {', '.join(names)} of {split}; known here is one of {', '.join(_CMVN)}, then "
                f"{_SPECAUGMENT}, or less"
            )
        return names


def vocabulary_folder(vocab: Optional[str], data: str, config_yaml: Optional[str]) -> str:
    """The vocabulary of a run with these options of the task: --vocab, or the file of the data folder that describes
    both; just the folder where that is its config.yaml. "" where neither is named, as of imported models."""
    if not vocab and not data:
        return ""
    named = config_yaml not in (None, CONFIG_YAML) and not vocab
    return absolute_path(os.path.join(data, config_yaml) if named else vocab or data)


def read_data_config(folder: str, name: str = CONFIG_YAML) -> FairseqDataConfig:
    """What a file of the data folder says; nothing where there is none, unless another than config.yaml is named."""
    path = os.path.join(folder, name)
    if name == CONFIG_YAML and not (folder and os.path.isfile(path)):
        return FairseqDataConfig(path)
    values = read_vocabulary_config(path)
    for option, kind in _KINDS.items():
        if not is_of(values.get(option), kind):
            raise ConfigError(f"{path}: {option} is {values[option]!r}, which is not what fairseq writes; correct it")
    return FairseqDataConfig(path, values)
