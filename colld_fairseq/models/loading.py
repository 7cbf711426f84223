"""Load student checkpoints in plain Python."""

import json
import os
from typing import Dict, Tuple

import torch
from torch import Tensor

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder

# Where the student lies in a checkpoint: inside a fine-tuned model, or in colld_student.
PREFIXES = ("encoder.student.", "encoder.")


def read_student(path: str) -> Tuple[EncoderConfig, Dict[str, Tensor]]:
    """Configuration and weights of the student encoder in a fairseq checkpoint of this project (any of its models).

    Heads, decoders and optimiser state are left behind. The file is loaded with weights_only, so nothing in it is run.
    Raises ConfigError when the file is missing or is no such checkpoint.
    """
    if not os.path.isfile(path):
        raise ConfigError(f"no student checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        recorded = checkpoint["cfg"]["model"]["encoder_config"]
        weights = checkpoint["model"]
    except Exception as error:  # noqa: BLE001 - truncated, not a checkpoint, or of another program
        raise ConfigError(f"{path} is not a checkpoint of a colld_fairseq model: {error}") from error
    for prefix in PREFIXES:
        state = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
        if state:
            return EncoderConfig.from_dict(json.loads(recorded)), state
    raise ConfigError(f"{path} holds no student encoder (no weights named encoder.*)")


def load_student(path: str) -> StudentEncoder:
    """The student encoder of a checkpoint, in eval mode: `load_student(path)(features, lengths).x`.

    Its `config.front_end` says what it takes: filterbanks (`colld_fairseq.data.inputs.StudentInput`) or waveforms.
    """
    config, state = read_student(path)
    student = StudentEncoder(config)
    student.load_state_dict(state)
    return student.eval()
