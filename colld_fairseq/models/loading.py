"""Load student checkpoints in plain Python."""

import json
import os
from typing import Any, Dict, NamedTuple, Tuple

import torch
from torch import Tensor

from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder

# Where the student lies in a checkpoint: inside a fine-tuned model, or in colld_student.
PREFIXES = ("encoder.student.", "encoder.")


class SavedModel(NamedTuple):
    """What a checkpoint says of a model: its encoder, all weights, and the options of model, task and criterion."""

    config: EncoderConfig
    weights: Dict[str, Tensor]
    model: Dict[str, Any]
    task: Dict[str, Any]
    criterion: Dict[str, Any]


def read_student(path: str) -> Tuple[EncoderConfig, Dict[str, Tensor]]:
    """Configuration and weights of the student encoder in a fairseq checkpoint of this project (any of its models).

    Heads, decoders and optimiser state are left behind. The file is loaded with weights_only, so nothing in it is run.
    Raises ConfigError when the file is missing or is no such checkpoint.
    """
    config, weights, *_ = read_model(path)
    for prefix in PREFIXES:
        state = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
        if state:
            return config, state
    raise ConfigError(f"{path} holds no student encoder (no weights named encoder.*)")


def read_input(path: str, cmvn: str = "") -> StudentInput:
    """What turns a waveform [N] into the input of the student in a checkpoint, as it was trained, without augmentation.

    `cmvn` replaces the training's normalisation of filterbanks, say when its file of statistics has moved. Raises
    ConfigError as `read_student`, and AudioError when that file cannot be read.
    """
    return input_of(read_model(path), cmvn)


def input_of(saved: SavedModel, cmvn: str = "") -> StudentInput:
    """As :func:`read_input`, of a checkpoint that was read."""
    kind, task = "waveform" if saved.config.front_end == "waveform" else "fbank", saved.task
    return StudentInput(kind, cmvn or task.get("cmvn", "utterance"), bool(task.get("normalize_waveform", False)))


def read_model(path: str) -> SavedModel:
    """A fairseq checkpoint of this project, loaded with weights_only. Raises ConfigError as :func:`read_student`."""
    if not os.path.isfile(path):
        raise ConfigError(f"no student checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        model, task, criterion = (checkpoint["cfg"].get(part) or {} for part in ("model", "task", "criterion"))
        recorded, weights = model["encoder_config"], checkpoint["model"]
    except Exception as error:  # truncated, not a checkpoint, or of another program
        raise ConfigError(f"{path} is not a checkpoint of a colld_fairseq model: {error}") from error
    return SavedModel(EncoderConfig.from_dict(json.loads(recorded)), weights, model, task, criterion)


def load_student(path: str) -> StudentEncoder:
    """The student encoder of a checkpoint, in eval mode: `load_student(path)(features, lengths).x`.

    `read_input(path)` turns a waveform into what it takes: filterbanks or the waveform, as in its training.
    """
    config, state = read_student(path)
    student = StudentEncoder(config)
    student.load_state_dict(state)
    return student.eval()
