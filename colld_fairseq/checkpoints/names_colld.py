"""Checkpoints of this project: encoders out of any of its models, and whole models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, MutableMapping, NamedTuple, Optional

import torch

from colld_fairseq.checkpoints.encoder import EncoderCheckpoint, Layout, StateDict, is_kept
from colld_fairseq.checkpoints.files import plain, read_torch, resolve_file
from colld_fairseq.checkpoints.input_options import InputOptions
from colld_fairseq.checkpoints.names_fairseq import as_fairseq_saves
from colld_fairseq.checkpoints.older import bring_up_to_date
from colld_fairseq.checkpoints.verify import NativeEncoder
from colld_fairseq.errors import CheckpointError
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.parsing import parse_json, values_of

LAYOUTS = (Layout("colld:FILE.pt", lambda config: [config.to_dict()], EncoderConfig.from_dict),)
# Where the student lies in a checkpoint: inside a fine-tuned model, or in colld_student.
PREFIXES = ("encoder.student.", "encoder.")


class SavedModel(NamedTuple):
    """What a checkpoint says of a model: its encoder, all weights, the options of model and task, the task's state."""

    config: EncoderConfig
    weights: StateDict
    model: Dict[str, Any]
    task: Dict[str, Any]
    state: Dict[str, Any]


def read_model(path: str, options: InputOptions = InputOptions()) -> SavedModel:
    """A whole model of this project out of a fairseq checkpoint.

    Raises CheckpointError where it cannot be read, and ConfigError where `options` contradict its input.
    """
    checkpoint = read_torch(resolve_file(path))
    cfg, weights = plain(checkpoint.get("cfg")), checkpoint.get("model")
    model = cfg.get("model") if isinstance(cfg, dict) else None
    if not isinstance(weights, dict) or not isinstance(model, dict) or "encoder_config" not in model:
        raise CheckpointError(f"{path} is not a checkpoint of a colld_fairseq model")
    state = checkpoint.get("task_state") or {}
    return SavedModel(encoder_in(cfg, path, options), weights, model, cfg.get("task") or {}, state)


def encoder_in(cfg: MutableMapping[str, Any], path: str, options: InputOptions) -> EncoderConfig:
    """The encoder by the settings in a checkpoint, input included, which are brought up to date in place.

    Raises ConfigError as :func:`read_model`.
    """
    with values_of(path):
        bring_up_to_date(cfg, path, options.cmvn)
        config = EncoderConfig.from_dict(parse_json(cfg["model"]["encoder_config"]))
    options.settle(config.input_kind, config.input, path)
    return config


def training_of(path: str) -> Dict[str, Any]:
    """Sections of the configuration of the run that wrote a checkpoint, as plain values; for people to read."""
    return plain(read_torch(resolve_file(path)).get("cfg")) or {}


def read(name: str, blocks: Optional[int] = None, options: InputOptions = InputOptions()) -> EncoderCheckpoint:
    """See `encoder.read_encoder`. Heads, decoders and the state of the optimizer are left behind."""
    saved = read_model(name, options)
    prefix = next((p for p in PREFIXES if any(key.startswith(p) for key in saved.weights)), None)
    if prefix is None:
        raise CheckpointError(f"{name} holds no student encoder (no weights named encoder.*)")
    weights = {key[len(prefix) :]: value for key, value in saved.weights.items() if key.startswith(prefix)}
    return EncoderCheckpoint(
        saved.config, {key: value for key, value in weights.items() if is_kept(key, blocks)}, f"colld:{name}"
    )


def load_student(path: str, cmvn: Optional[str] = None) -> StudentEncoder:
    """The student encoder in a checkpoint, in eval mode: `load_student(path)(features, lengths).x`.

    `StudentInput(student.config.input)` turns a waveform into what it takes, as in its training. cmvn: where the
    statistics of filterbanks are now, for an older checkpoint that only says where they once were. Raises ConfigError.
    """
    return read(path, options=InputOptions(cmvn)).build()


def files(name: str) -> List[Path]:
    """The file."""
    return [resolve_file(name)]


def write(path: Path, checkpoint: EncoderCheckpoint) -> None:
    """See `encoder.write_encoder`: a checkpoint of a `colld_student` without heads."""
    recorded = json.dumps(checkpoint.config.to_dict(), sort_keys=True)
    model = {"_name": "colld_student", "encoder_config": recorded}
    task = {"_name": "speech_distillation"}
    weights = {f"encoder.{name}": tensor for name, tensor in checkpoint.weights.items()}
    torch.save(as_fairseq_saves(model, task, weights, "feature_regression"), path)


def own_library(name: str, complete: bool) -> NativeEncoder:
    """See `verify.open_native`."""
    from colld_fairseq.data.inputs import StudentInput

    checkpoint = read(name)
    given = checkpoint.config.input
    if given.kind == "log_mel":  # Whisper's other libraries know nothing but full windows
        given = replace(given, tail_seconds=given.window_seconds)
    student, prepare = checkpoint.build().float(), StudentInput(given)

    def layers(source: torch.Tensor) -> StateDict:
        output = student(source[None], layers=range(student.num_layers + 1))
        return {**{str(k): value[0] for k, value in output.features.items()}, "output": output.x[0]}

    return NativeEncoder(checkpoint.config.input, lambda waveform: torch.from_numpy(prepare(waveform)), layers)
