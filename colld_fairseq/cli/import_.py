"""`colld import`: a folder of `colld export` as a checkpoint again."""

import argparse
import os
import shlex
from pathlib import Path
from typing import List

import numpy as np
import torch

from colld_fairseq.checkpoints import onnx_folder
from colld_fairseq.checkpoints.onnx_reading import check_installed, read_metadata
from colld_fairseq.cli.convert import generated_signal
from colld_fairseq.cli.terminal import Console
from colld_fairseq.compat import absolute_path
from colld_fairseq.errors import CheckpointError, ConfigError
from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import TARGET, TARGETS, ExportOptions, Stage, first_difference
from colld_fairseq.export.folder import exported_in
from colld_fairseq.outputs import check_output
from colld_fairseq.recogniser import load_recogniser


def run(args: argparse.Namespace) -> int:
    """Writes the checkpoint, unless it computes something else than the folder: then 1. Raises ColldError."""
    scheme, _, name = args.source.partition(":")
    if scheme != "onnx" or not name:
        raise ConfigError(f"{args.source!r}: write onnx:DIR, a folder that `colld export` wrote")
    folder, out = Path(absolute_path(name)), Path(absolute_path(args.out))
    check_output(out, "--out", folder.glob("**/*.onnx"))
    check_installed("onnx", "onnxruntime")
    checkpoint, console = onnx_folder.read(folder), Console()
    temporary = out.with_name(f".{out.name}.{os.getpid()}.pt")
    try:
        torch.save(checkpoint, temporary)
        wrong = first_difference(compare(temporary, folder, generated_signal()))
        if wrong is None:
            os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    if wrong is not None:
        console.say(f"Nothing was written: {folder} computes something else. {wrong.name}: {wrong.detail}", style="red")
        return 1
    console.say(describe(args.out, checkpoint))
    return 0


def compare(checkpoint: Path, folder: Path, waveform: np.ndarray) -> List[Stage]:
    """Stages of the graphs of a folder beside the checkpoint that was made of them, on a waveform [N] at 16 kHz."""
    options = ExportOptions.of_folder(read_metadata(onnx_folder.graph_of(folder)))
    if options.target not in TARGETS:
        raise CheckpointError(
            f"{folder}: its metadata {TARGET} is {options.target!r}, which is unknown; export it again"
        )
    family = family_of(load_recogniser(str(checkpoint), device="cpu"), options).without_client()
    return family.stages(exported_in(folder, family), waveform)


def describe(out: str, checkpoint: dict) -> str:
    """What was written, and how to go on from it."""
    model = checkpoint["cfg"]["model"]["_name"]
    weights = sum(value.numel() for value in checkpoint["model"].values())
    go_on = f"--arch {model} --student {shlex.quote(out)} --finetune-from-model {shlex.quote(out)}"
    return f"{out}: {model}, {weights:,} weights, the same as the graphs'\ntrain on from it with fairseq-train {go_on}"
