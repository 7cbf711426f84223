"""The folder that a client opens: graph, quantized graph, symbols, README."""

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple, Optional

from torch import nn

from colld_fairseq.errors import ConfigError
from colld_fairseq.export.card import folder_card
from colld_fairseq.export.ctc_graph import CtcGraph
from colld_fairseq.export.onnx_file import add_metadata, check_installed, quantize, write_onnx
from colld_fairseq.export.slots import Slot, example_of, slot_for
from colld_fairseq.export.symbols import client_symbols, never_emitted, tokens_file
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.recogniser import Recogniser

MODEL, INT8, TOKENS, CARD = "model.onnx", "model.int8.onnx", "tokens.txt", "README.md"
WRITTEN = (MODEL, INT8, TOKENS, CARD)
FORMAT = "1"  # of our own metadata


class Exported(NamedTuple):
    """Files of an exported folder; int8 is None where it was not asked for."""

    slot: Slot
    model: Path
    int8: Optional[Path]
    tokens: Path


def exported_in(folder: Path, slot: Slot) -> Exported:
    """The files of a folder that was written before. Raises ConfigError where one is missing."""
    missing = [name for name in (MODEL, TOKENS) if not (folder / name).is_file()]
    if missing:
        raise ConfigError(f"{folder}: {missing[0]} is not there; export it again with --overwrite")
    int8 = folder / INT8
    return Exported(slot, folder / MODEL, int8 if int8.is_file() else None, folder / TOKENS)


def check_replaceable(folder: Path, overwrite: bool) -> None:
    """Raises ConfigError where something is in the way that may not be replaced."""
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; give a folder")
    if not overwrite:
        raise ConfigError(f"{folder}: exists; give another name, --overwrite to replace it, or --wav to compare it")
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in WRITTEN)
    if others:
        raise ConfigError(
            f"{folder}: holds files that an export does not write ({', '.join(others[:4])}), and would be replaced as a"
            " whole; give another name"
        )


def ctc_model(recogniser: Recogniser) -> nn.Module:
    """The one CTC model of a recogniser. Raises ConfigError for what has no export yet."""
    if recogniser.decoder != "ctc":
        raise ConfigError(
            f"this model decodes with {recogniser.decoder}, and only CTC students are exported yet: give a student_ctc"
        )
    if len(recogniser.models) > 1:
        raise ConfigError(
            "several checkpoints are an ensemble, a folder holds one model: average them first (`colld average`)"
        )
    return recogniser.models[0].float()


def write_folder(folder: Path, recogniser: Recogniser, target: str, int8: bool, exporter: str) -> Exported:
    """Export a CTC student: complete, or not at all.

    Args:
        folder: is replaced; see `check_replaceable`.
        target: one of `slots.TARGETS`.
        exporter: see `onnx_file.write_onnx`.

    Raises ConfigError where the client would give other text, or a package is missing.
    """
    model = ctc_model(recogniser)
    slot = slot_for(target, model.encoder.student)
    symbols = client_symbols(recogniser.vocabulary)
    check_installed("onnx", "onnxruntime", *(["onnxscript"] if exporter == "dynamo" else []))
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        write_graph(temporary / MODEL, model, slot, recogniser, exporter)
        if int8:
            waveforms = model.encoder.config.input.kind == "waveform"
            quantize(temporary / MODEL, temporary / INT8, every_operator=waveforms)
        (temporary / TOKENS).write_text(tokens_file(symbols), encoding="utf-8")
        card = folder_card(slot, model.encoder.student, {name: _size(temporary / name) for name in (MODEL, INT8)})
        (temporary / CARD).write_text(card, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return exported_in(folder, slot)


def write_graph(path: Path, model: nn.Module, slot: Slot, recogniser: Recogniser, exporter: str) -> None:
    """The graph of a CTC student for a slot, with its metadata."""
    student: StudentEncoder = model.encoder.student
    example, axes = example_of(slot, student)
    graph = CtcGraph(model, slot.normalization(student), never_emitted(recogniser.vocabulary)).eval()
    outputs = {"log_probs": {0: "batch", 1: "frames"}}
    if slot.batched:
        outputs["log_probs_lengths"] = {0: "batch"}
    else:
        outputs["log_probs"] = {1: "frames"}
    write_onnx(path, graph, example, list(outputs), {**axes, **outputs}, exporter)
    own = {"colld_format": FORMAT, "colld_slot": slot.name, "colld_encoder": json.dumps(student.config.to_dict())}
    add_metadata(path, {**own, **slot.metadata(student)})


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
