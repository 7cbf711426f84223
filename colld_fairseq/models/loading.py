"""Load student checkpoints in plain Python."""

import json
import os
from typing import Any, Dict, MutableMapping, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from colld_fairseq.checkpoints.older import bring_up_to_date
from colld_fairseq.data.inputs import InputOptions, StudentInput
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder

# Where the student lies in a checkpoint: inside a fine-tuned model, or in colld_student.
PREFIXES = ("encoder.student.", "encoder.")


class SavedModel(NamedTuple):
    """What a checkpoint says of a model: its encoder, all weights, and the options of model and task."""

    config: EncoderConfig
    weights: Dict[str, Tensor]
    model: Dict[str, Any]
    task: Dict[str, Any]


def read_student(path: str, options: InputOptions = InputOptions()) -> Tuple[EncoderConfig, Dict[str, Tensor]]:
    """Configuration and weights of the student encoder in a fairseq checkpoint of this project (any of its models).

    Heads, decoders and optimiser state are left behind. The file is loaded with weights_only, so nothing in it is run.
    Raises ConfigError when the file is missing or is no such checkpoint.
    """
    config, weights, *_ = read_model(path, options)
    for prefix in PREFIXES:
        state = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
        if state:
            return config, state
    raise ConfigError(f"{path} holds no student encoder (no weights named encoder.*)")


def read_input(path: str, cmvn: Optional[str] = None) -> StudentInput:
    """What turns a waveform [N] into the input of the student in a checkpoint, as it was trained, without augmentation.

    cmvn: where the statistics of filterbanks are now, for a checkpoint that only says where they once were. Raises
    ConfigError as `read_student`, and where `cmvn` contradicts the checkpoint.
    """
    return StudentInput(read_model(path, InputOptions(cmvn)).config.input)


def read_model(path: str, options: InputOptions = InputOptions()) -> SavedModel:
    """A fairseq checkpoint of this project, loaded with weights_only. Raises ConfigError as :func:`read_student`, and
    where `options` contradict its input."""
    if not os.path.isfile(path):
        raise ConfigError(f"no student checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        cfg, weights = checkpoint["cfg"], checkpoint["model"]
        json.loads(cfg["model"]["encoder_config"])
    except Exception as error:  # truncated, not a checkpoint, or of another program
        raise ConfigError(f"{path} is not a checkpoint of a colld_fairseq model: {error}") from error
    return SavedModel(encoder_in(cfg, path, options), weights, cfg["model"], cfg.get("task") or {})


def encoder_in(cfg: MutableMapping[str, Any], path: str, options: InputOptions) -> EncoderConfig:
    """The encoder by the settings in a checkpoint, input included, which are brought up to date in place.

    Raises ConfigError as :func:`read_model`.
    """
    bring_up_to_date(cfg, path, options.cmvn)
    config = EncoderConfig.from_dict(json.loads(cfg["model"]["encoder_config"]))
    options.settle(config.input_kind, config.input, path)
    return config


def load_student(path: str, cmvn: Optional[str] = None) -> StudentEncoder:
    """The student encoder of a checkpoint, in eval mode: `load_student(path)(features, lengths).x`.

    `StudentInput(student.config.input)` turns a waveform into what it takes, as in its training. cmvn: see
    :func:`read_input`.
    """
    config, state = read_student(path, InputOptions(cmvn))
    student = StudentEncoder(config)
    student.load_state_dict(state)
    return student.eval()
