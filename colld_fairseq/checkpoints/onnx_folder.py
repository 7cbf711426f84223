"""Folders that `colld export` wrote, as checkpoints again: weights out of the graphs, the rest out of metadata.

Nothing but graphs of ONNX is read, and what is in them is data: tensors, JSON, and the files of a vocabulary.
"""

import base64
import json
from pathlib import Path
from typing import Any, Dict, List, Mapping

import torch

from colld_fairseq.checkpoints import onnx_weights
from colld_fairseq.checkpoints.names_fairseq import as_fairseq_saves
from colld_fairseq.checkpoints.onnx_reading import read_metadata
from colld_fairseq.errors import CheckpointError
from colld_fairseq.parsing import parse_json

KEY = "colld_checkpoint"  # in the metadata of one of the graphs
FORMAT = 1
# What a checkpoint needs of its task to be decoded as before; the rest belongs to a run, and names its files.
TASK = {"_name": "multilingual_speech_to_text", "data": "", "seed": 1}
TASK_OPTIONS = ("decoder", "ctc_target", "tgt_lang", "src_lang", "max_symbols", "blank_penalty", "allow_unk")
# Options of models that name files, not needed where the encoder is recorded and the vocabulary is copied.
FILES = ("student", "init_from", "decoder_from", "decoder_tokens_from")
CRITERIONS = {  # that checkpoints of a model name
    "student_ctc": "ctc_attention",
    "student_s2t": "ctc_attention",
    "transducer_student": "transducer",
}
INT8 = ".int8.onnx"


def describe(
    model: Mapping[str, Any],
    task: Mapping[str, Any],
    vocabulary: Mapping[str, torch.Tensor],
    weights: onnx_weights.StateDict,
    graphs: Mapping[str, Path],
) -> str:
    """What `read` needs besides the graphs, as JSON.

    Args:
        model, task: options, as in a checkpoint; those that name files are left out.
        vocabulary: see `data.vocabulary_copy`: file name -> bytes, uint8.
        weights: of the whole model.
        graphs: file name -> path.
    """
    tensors = {name: onnx_weights.tensors_of(path) for name, path in graphs.items()}
    content = {
        "format": FORMAT,
        "model": {name: "" if name in FILES and value else value for name, value in model.items()},
        "task": {name: task[name] for name in TASK_OPTIONS if task.get(name) is not None},
        "vocabulary": {name: base64.b64encode(file.numpy().tobytes()).decode() for name, file in vocabulary.items()},
        "weights": onnx_weights.note(weights, tensors),
    }
    return json.dumps(content)


def read(folder: Path) -> Dict[str, Any]:
    """The checkpoint of the model in a folder, ready for `torch.save`. Raises CheckpointError where there is none."""
    holder = graph_of(folder)
    content = _content(holder)
    try:
        model, task, copy = content["model"], content["task"], content["vocabulary"]
        criterion = CRITERIONS[model["_name"]]
        vocabulary = {name: _bytes(file) for name, file in copy.items()}
        files = sorted({str(note["file"]) for note in content["weights"].values() if "file" in note})
        task = {**TASK, **{name: task[name] for name in TASK_OPTIONS if name in task}}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(holder, error) from error
    graphs = {name: onnx_weights.tensors_of(_inside(holder.parent, name)) for name in files}
    weights = onnx_weights.read(content["weights"], graphs)
    checkpoint = as_fairseq_saves(model, task, weights, criterion)
    checkpoint["cfg"]["criterion"] = {"_name": criterion}  # which fairseq-validate asks for
    checkpoint["cfg"]["common_eval"] = {"path": None}  # which load_recogniser fills in
    checkpoint["task_state"] = {"vocabulary": vocabulary}
    return checkpoint


def graph_of(folder: Path) -> Path:
    """The graph whose metadata say what the folder holds. Raises CheckpointError where there is none."""
    graphs = _graphs(folder)
    holder = next((path for path in graphs if KEY in read_metadata(path)), None)
    if holder is not None:
        return holder
    names = ", ".join(path.name for path in graphs)
    raise CheckpointError(
        f"{folder}: {names} without the metadata {KEY}, by which `colld export` notes where the weights are: written by"
        " another program or an older version, or quantized; export it again from its checkpoint"
    )


def _content(path: Path) -> Dict[str, Any]:
    """What the metadata of a graph says."""
    try:
        content = parse_json(read_metadata(path)[KEY])
        version = content["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(path, error) from error
    if version != FORMAT:
        raise CheckpointError(f"{path}: written by another version of colld_fairseq; import it with that one")
    return content


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: its metadata {KEY} is damaged ({error!r}); export it again")


def _graphs(folder: Path) -> List[Path]:
    """Graphs of a folder and of folders in it. Raises CheckpointError where they are quantized, all of them."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    graphs = sorted([*folder.glob("*.onnx"), *folder.glob("*/*.onnx")])
    if not graphs:
        raise CheckpointError(f"{folder}: holds no graph (*.onnx); give a folder that `colld export` wrote")
    whole = [path for path in graphs if not path.name.endswith(INT8)]
    if not whole:
        raise CheckpointError(
            f"{folder}: holds 8-bit weights alone ({graphs[0].name}); what rounding took from them does not come back:"
            " import the folder with its 32-bit graphs"
        )
    return whole


def _bytes(encoded: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(encoded, validate=True)), dtype=torch.uint8)


def _inside(folder: Path, name: str) -> Path:
    if Path(name).name != name:
        raise CheckpointError(f"{folder}: the metadata names a file outside of it ({name}); export it again")
    return folder / name
