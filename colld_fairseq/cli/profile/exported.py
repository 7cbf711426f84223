"""Folders of `colld export` without the checkpoint that they were made of: their graphs, and their weights in torch."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, List, Tuple

import numpy as np
import torch

from colld_fairseq.checkpoints import onnx_folder
from colld_fairseq.checkpoints.encoder import EncoderCheckpoint
from colld_fairseq.checkpoints.names_colld import PREFIXES
from colld_fairseq.checkpoints.onnx_reading import check_installed, read_metadata
from colld_fairseq.cli.profile.subject import Subject
from colld_fairseq.compat import absolute_path
from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.log_mel import HOP, LogMel
from colld_fairseq.errors import ConfigError
from colld_fairseq.export.family import ENCODER, SLOT, TARGET, WHISPER
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.input_config import InputConfig

Loader = Callable[[str, torch.device], Subject]
Prepare = Callable[[np.ndarray], Tuple[np.ndarray, ...]]  # waveforms [B, N] -> inputs of a graph


def exported_loaders(spec: str) -> List[Loader]:
    """For each graph of a folder (onnx:DIR, or DIR) that holds the encoder, and for its weights in torch.

    Raises ConfigError where there is none.
    """
    check_installed("onnx", "onnxruntime")
    folder = Path(absolute_path(spec.removeprefix("onnx:")))
    paths = sorted([*folder.glob("*.onnx"), *folder.glob("*/*.onnx")], key=lambda path: ".int8." in path.name)
    graphs = [path for path in paths if ENCODER in read_metadata(path)]
    if not graphs:
        raise ConfigError(f"--exported {spec}: no folder with a graph that `colld export` wrote")
    loaders: List[Loader] = [partial(load_graph, graph) for graph in graphs]
    if any(onnx_folder.KEY in read_metadata(path) for path in graphs):
        loaders.insert(0, partial(load_weights, folder))
    return loaders


def load_weights(folder: Path, spec: str, device: torch.device) -> Subject:
    """The encoder of a folder, in torch."""
    checkpoint = onnx_folder.read(folder)
    config = EncoderConfig.from_dict(json.loads(checkpoint["cfg"]["model"]["encoder_config"]))
    prefix = PREFIXES[0]
    weights = {name[len(prefix) :]: value for name, value in checkpoint["model"].items() if name.startswith(prefix)}
    student = EncoderCheckpoint(config, weights, spec).build().to(device)
    prepare = StudentInput(config.input)

    def run(waveforms: np.ndarray) -> torch.Tensor:
        source = torch.from_numpy(np.stack([prepare(waveform) for waveform in waveforms]))
        with torch.no_grad():
            return student(source.to(device)).x

    stored = 4 * student.num_parameters()
    return _subject("PyTorch", spec, run, student, stored)


def load_graph(path: Path, spec: str, device: torch.device) -> Subject:
    """A graph in ONNX Runtime, with as many threads as torch has. ConfigError where it takes more than audio."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs, metadata = session.get_inputs(), read_metadata(path)
    if len(inputs) > 2:
        raise ConfigError(f"--exported {spec}: {path.name} runs chunk by chunk, which is not measured here")
    config = EncoderConfig.from_dict(json.loads(metadata[ENCODER]))
    if metadata.get(SLOT) == WHISPER:
        prepare = partial(client_log_mels, metadata[TARGET], config.input)
    else:
        prepare = plain_inputs(config.input, lengths=len(inputs) == 2)

    def run(waveforms: np.ndarray) -> Any:
        return session.run(None, dict(zip((value.name for value in inputs), prepare(waveforms))))

    with torch.device("meta"):
        student = StudentEncoder(config)
    subject = _subject(f"ONNX, {8 if '.int8.' in path.name else 32} bits", spec, run, student, path.stat().st_size)
    subject.in_torch, subject.largest_batch = False, 1 if inputs[0].shape[0] == 1 else None
    return subject


def plain_inputs(config: InputConfig, lengths: bool) -> Prepare:
    """What makes filterbanks or samples of waveforms, with lengths or (from clients that normalize) without."""
    prepare = StudentInput(replace(config, normalization="none", mean=[], std=[]) if lengths else config)

    def inputs(waveforms: np.ndarray) -> Tuple[np.ndarray, ...]:
        source = np.stack([prepare(waveform) for waveform in waveforms])
        return (source, np.full(len(source), source.shape[1])) if lengths else (source,)

    return inputs


def client_log_mels(target: str, config: InputConfig, waveforms: np.ndarray) -> Tuple[np.ndarray]:
    """Log-mels [B, bins, T] as clients of Whisper give them to the encoder: onnx-asr those of 30 s, with silence behind
    the utterance; sherpa-onnx those of the utterance."""
    window = round(config.window_seconds * SAMPLE_RATE)
    frames = (window if target == "onnx-asr" else waveforms.shape[1]) // HOP
    log_mels = LogMel(config.bins, window)(torch.from_numpy(waveforms), min(frames + 3, window // HOP))
    kept = frames if target == "onnx-asr" else frames + 1
    return (log_mels[:, :kept].transpose(1, 2).contiguous().numpy(),)


def _subject(role: str, spec: str, run: Callable, student: StudentEncoder, stored: int) -> Subject:
    parameters, layers = student.num_parameters(), student.num_layers
    return Subject(role, spec, run, parameters, stored, layers, student.width, student.frame_rate_hz)
