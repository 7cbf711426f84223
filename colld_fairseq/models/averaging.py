"""One checkpoint whose weights are the mean of several of a run, to decode or to go on from.

As fairseq's `scripts/average_checkpoints.py`, which its wheels leave out, and icefall's `--avg` do. Whether the mean of
a run's last checkpoints is better than the best of them, a dev set has to say.
"""

import json
import math
import os
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import torch
from torch import Tensor

from colld_fairseq.checkpoints import onnx_folder
from colld_fairseq.checkpoints.files import plain, read_torch
from colld_fairseq.checkpoints.older import bring_up_to_date
from colld_fairseq.data import vocabulary_copy
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.input_config import InputConfig

# fairseq's names: checkpoint12.pt after epoch 12, checkpoint_3_500.pt after 500 updates, in epoch 3.
NAMES = {"epoch": re.compile(r"checkpoint(\d+)\.pt"), "update": re.compile(r"checkpoint_\d+_(\d+)\.pt")}
# Settings that act in training alone: a run may go on with others.
IN_TRAINING = {
    *("dropout", "attention_dropout", "activation_dropout", "dropout_input", "output_dropout", "decoder_dropout"),
    *("predictor_dropout", "encoder_layerdrop", "layerdrop", "feature_grad_mult"),
    *("mask_prob", "mask_length", "min_masks", "mask_channel_prob", "mask_channel_length"),
    *("front_end_updates", "freeze_encoder_updates", "freeze_decoder_updates", "train_decoder_parts", "frozen_blocks"),
    *("checkpoint_activations", "compile_encoder"),
}
Checkpoint = Dict[str, Any]


def newest(folder: str, count: int, by: str) -> List[str]:
    """The `count` newest checkpoints in `folder` by epoch or update, oldest first; ConfigError if there are fewer."""
    if not os.path.isdir(folder):
        raise ConfigError(f"--dir {folder}: no such folder")
    numbered: Dict[str, List[Tuple[int, str]]] = {kind: [] for kind in NAMES}
    for path in Path(folder).iterdir():
        for kind, name in NAMES.items():
            match = name.fullmatch(path.name)
            if match:
                numbered[kind].append((int(match[1]), str(path)))
    if len(numbered[by]) < count:
        there = ", ".join(f"{len(paths)} by {kind}" for kind, paths in numbered.items())
        raise ConfigError(
            f"--last {count} --by {by}: {folder} holds {there}; take fewer, the other kind, or name the files (what is"
            " kept is up to the training's --keep-last-epochs, --save-interval-updates and --keep-interval-updates)"
        )
    return [path for _, path in sorted(numbered[by])[-count:]]


def check_distinct(paths: Sequence[str]) -> None:
    """ConfigError for a file that is missing or is there twice."""
    seen: Dict[str, str] = {}
    for path in paths:
        if not os.path.isfile(path):
            raise ConfigError(f"no checkpoint {path}")
        same = seen.setdefault(os.path.realpath(path), path)
        if list(paths).count(path) > 1 or same != path:
            raise ConfigError(f"{path} is the same file as {same}")


def average(paths: Sequence[str]) -> Tuple[Checkpoint, str]:
    """The checkpoint whose weights are the mean of those in `paths`, and which of them is the newest.

    Summed in float64; weights in half precision become float32. Integers, settings and the state of the task are those
    of the newest, the one after most updates. One file at a time is read, without its optimizer.

    Raises ConfigError that names the file and what is wrong: no checkpoint of fairseq, settings of the model, names or
    shapes other than in the first, NaN, the weights of another file once more.
    """
    check_distinct(paths)
    first = read(paths[0])
    sums: Dict[str, Tensor] = {}
    latest, latest_path, path_of = first, paths[0], {}
    for path in paths:
        checkpoint = first if path == paths[0] else read(path)
        check_same(first, checkpoint, paths[0], path)
        fingerprint = add(checkpoint, sums, path)
        if fingerprint in path_of:
            raise ConfigError(
                f"{path} has the weights of {path_of[fingerprint]}, which would count twice (checkpoint_last.pt and"
                " checkpoint_best.pt are copies)"
            )
        path_of[fingerprint] = path
        if updates_of(checkpoint) >= updates_of(latest):
            latest, latest_path = checkpoint, path
    dtypes = {name: torch.promote_types(value.dtype, torch.float32) for name, value in floating(latest)}
    means = {name: (value / len(paths)).to(dtypes[name]) for name, value in sums.items()}
    # Tensors of a file that is mapped into memory would drag its whole storage along.
    model = {name: means[name] if name in means else value.clone() for name, value in latest["model"].items()}
    # What fairseq asks for where a training starts from the file; scores and the EMA are not those of the mean.
    extra = {name: value for name, value in latest["extra_state"].items() if name == "train_iterator"}
    mean = {
        **{name: latest.get(name) for name in ("args", "cfg", "optimizer_history", "task_state")},
        "model": type(latest["model"])(model),
        "criterion": None,
        "last_optimizer_state": None,
        "extra_state": {**extra, "averaged": [str(path) for path in paths]},
    }
    return mean, latest_path


def add(checkpoint: Checkpoint, sums: Dict[str, Tensor], path: str) -> Tuple[float, ...]:
    """Adds a checkpoint's weights to the float64 `sums`; returns its own sums, one per tensor, as a fingerprint."""
    fingerprint = []
    for name, value in floating(checkpoint):
        value = value.double()
        fingerprint.append(float(value.sum()))
        if math.isnan(fingerprint[-1]):
            raise ConfigError(f"{path}: {name} holds NaN; its training had failed")
        sums[name] = sums[name].add_(value) if name in sums else value.clone()
    return tuple(fingerprint)


def read(path: str) -> Checkpoint:
    """A checkpoint of fairseq-train, mapped into memory: only what is used is read."""
    checkpoint = read_torch(Path(path))
    try:
        if not checkpoint["model"] or not checkpoint["cfg"]["model"]:
            raise KeyError("weights or settings of a model")
        updates_of(checkpoint), checkpoint["extra_state"].get("train_iterator")
    except (KeyError, TypeError, IndexError, AttributeError) as error:  # of another program
        raise ConfigError(f"{path} is not a checkpoint of fairseq-train: it lacks {error}") from error
    checkpoint["cfg"] = plain(checkpoint["cfg"])
    if checkpoint["cfg"]["model"].get("encoder_config"):  # of this project
        bring_up_to_date(checkpoint["cfg"], path)
    return checkpoint


def updates_of(checkpoint: Checkpoint) -> int:
    return checkpoint["optimizer_history"][-1]["num_updates"]


def floating(checkpoint: Checkpoint) -> Iterator[Tuple[str, Tensor]]:
    return ((name, value) for name, value in checkpoint["model"].items() if value.is_floating_point())


def settings(checkpoint: Checkpoint) -> Dict[str, Any]:
    """Of the model, but for the files that it began with and what acts in training alone; the shape of a student's
    encoder, which is recorded as JSON, by its parts."""
    left_out = {*onnx_folder.FILES, *IN_TRAINING}
    fields = {name: value for name, value in checkpoint["cfg"]["model"].items() if name not in left_out}
    recorded = json.loads(fields.pop("encoder_config", "") or "{}")
    if recorded:
        recorded["input"] = str(InputConfig.from_dict(recorded["input"])), recorded["input"]
    return {**fields, **{f"encoder_config.{name}": value for name, value in recorded.items() if name not in left_out}}


def check_same(first: Checkpoint, other: Checkpoint, first_path: str, path: str) -> None:
    """ConfigError that names the first difference in the model's settings, the names and shapes of weights, or the
    vocabularies."""
    ours, theirs = settings(first), settings(other)
    shapes = ({name: list(value.shape) for name, value in file["model"].items()} for file in (first, other))
    for here, there, what in ((ours, theirs, "the model's"), (*shapes, "weight")):
        for name in [*here, *there]:
            if name not in here or name not in there:
                has = path if name in there else first_path
                raise ConfigError(f"only {has} has {what} {name}: {first_path} and {path} are of different models")
            if here[name] != there[name]:
                is_there, is_here = (
                    value[0] if isinstance(value, tuple) else repr(value) for value in (there[name], here[name])
                )
                raise ConfigError(
                    f"{path}: {what} {name} is {is_there}, in {first_path} {is_here}; only checkpoints of one model"
                    " can be averaged"
                )
    copies = [(file.get("task_state") or {}).get(vocabulary_copy.NAME) for file in (first, other)]
    if None not in copies and (what := vocabulary_copy.difference(copies[1], copies[0])):
        raise ConfigError(
            f"{path}: another vocabulary than {first_path} has ({what}); only checkpoints of one model can be averaged"
        )
