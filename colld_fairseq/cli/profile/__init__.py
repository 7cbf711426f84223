"""`colld profile`: size, multiply-accumulates, real-time factor and memory of students, exported ones, and teachers.

Times go from waveforms in memory to the features of the last layer: the student's filterbanks or convolutions
and the teacher's own front-end are part of them.
"""

import argparse
import json
from functools import partial
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from colld_fairseq.cli.profile.exported import exported_loaders
from colld_fairseq.cli.profile.plot import Plot
from colld_fairseq.cli.profile.subject import Subject
from colld_fairseq.cli.terminal import Console
from colld_fairseq.data.fbank import SAMPLE_RATE
from colld_fairseq.devices import pick_device
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import write_atomically
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.outputs import check_output
from colld_fairseq.profiling import count_macs, describe_machine, real_time_factor, time_runs, working_memory

MACS_SECONDS = 10  # audio that multiply-accumulates are counted for, whatever is timed
FACTS = ("role", "source", "parameters", "layers", "width", "frame_rate_hz")  # of a subject, in the report
TRAINING_ONLY = ("mask_emb", "masked_spec_embed")  # names of mask embeddings


def run(args: argparse.Namespace) -> int:
    if not (args.student or args.exported or args.teacher):
        raise ConfigError("give --student CKPT.pt, --exported onnx:DIR, --teacher hf:DIR, or several of them")
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(pick_device(args.device))
    inputs = [*args.student, *(spec.partition(":")[2] for spec in args.teacher)]
    if args.json:
        check_output(args.json, "--json", inputs)
    loaders = [(partial(load_student_subject, cmvn=args.cmvn), path) for path in args.student]
    loaders += [(loader, spec) for spec in args.exported for loader in exported_loaders(spec)]
    loaders += [(load_teacher_subject, spec) for spec in args.teacher]
    plot = Plot.parse(args.plot, len(loaders), inputs) if args.plot else None
    report = {
        "machine": describe_machine(device),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "utterance_seconds": args.seconds,
        "runs": args.runs,
        # one at a time, so that no model stands in another's memory
        "models": [
            measure(load(source, device), args.seconds, args.batch_sizes, args.runs, device) for load, source in loaders
        ],
    }
    print_report(report)
    if plot is not None:
        plot.write(report["models"])
    if args.json:
        write_atomically(args.json, (json.dumps(report, indent=2) + "\n").encode())
    return 0


def load_student_subject(path: str, device: torch.device, cmvn: str = "") -> Subject:
    """The encoder of a student checkpoint; heads and decoders are left out. Raises ConfigError."""
    from colld_fairseq.checkpoints import names_colld
    from colld_fairseq.checkpoints.input_options import InputOptions
    from colld_fairseq.data.inputs import StudentInput

    checkpoint = names_colld.read(path, options=InputOptions(cmvn))
    student = checkpoint.build().to(device)
    front_end = StudentInput(student.config.input)

    def run(waveforms: np.ndarray) -> Tensor:
        source = torch.from_numpy(np.stack([front_end(waveform) for waveform in waveforms]))
        with torch.no_grad():
            return student(source.to(device)).x

    parameters = _parameters(student)
    stored = round(parameters * _bytes_per_parameter(checkpoint.weights))
    return Subject("student", path, run, parameters, stored, student.num_layers, student.width, student.frame_rate_hz)


def load_teacher_subject(spec: str, device: torch.device) -> Subject:
    """A teacher with all its layers, in float32. Raises TeacherError."""
    from colld_fairseq.teachers import describe_teacher, load_teacher

    last = describe_teacher(spec).num_layers
    teacher = load_teacher(spec, layers=[last], device=str(device))

    def run(waveforms: np.ndarray) -> Tensor:
        source = torch.from_numpy(waveforms).to(device)
        return teacher(source, torch.full(source.shape[:1], source.size(1))).features[last]

    parameters, stored = _size_of(spec, teacher.module)
    in_torch = not spec.startswith("onnx:")
    return Subject("teacher", spec, run, parameters, stored, last, teacher.width, teacher.frame_rate_hz, in_torch)


def _size_of(spec: str, module: nn.Module) -> Tuple[int, int]:
    """Parameters of a teacher, and the bytes that they take as stored; of a class of the user's, in memory."""
    from colld_fairseq.checkpoints.onnx_graph import size_of

    scheme, _, name = spec.partition(":")
    if scheme == "onnx":
        return size_of(name)
    parameters = _parameters(module)
    if scheme == "python":
        return parameters, sum(value.nbytes for value in module.parameters())
    return parameters, round(parameters * _bytes_per_parameter(_teacher_state(spec)))


def _teacher_state(spec: str) -> Dict[str, Tensor]:
    from colld_fairseq.checkpoints import names_fairseq2
    from colld_fairseq.checkpoints.files import read_state, resolve_directory
    from colld_fairseq.checkpoints.names_colld import read_model
    from colld_fairseq.checkpoints.names_fairseq import open_file

    scheme, _, name = spec.partition(":")
    if scheme == "colld":
        return read_model(name).weights
    if scheme == "fairseq2":
        return names_fairseq2.open_file(name).tensors.shapes
    return read_state(resolve_directory(name)) if scheme == "hf" else open_file(name).weights


def _parameters(module: nn.Module) -> int:
    """Of an encoder as it is deployed: transformers' modules have a mask embedding as well."""
    if isinstance(module, StudentEncoder):
        return module.num_parameters()
    named = module.named_parameters()
    return sum(value.numel() for name, value in named if name.rpartition(".")[2] not in TRAINING_ONLY)


def _bytes_per_parameter(state: Dict[str, Tensor]) -> float:
    """Mean bytes of a weight in a file, which may hold heads or a decoder besides the encoder."""
    weights = [value for value in state.values() if value.is_floating_point()]
    return sum(value.nbytes for value in weights) / sum(value.numel() for value in weights)


def measure(
    subject: Subject, seconds: float, batch_sizes: List[int], runs: int, device: torch.device
) -> Dict[str, Any]:
    """Everything that is printed about one model, ready for JSON. Sizes in MB are 10^6 bytes."""
    speed = []
    for batch_size in batch_sizes:
        if subject.largest_batch is not None and batch_size > subject.largest_batch:
            speed.append({"batch_size": batch_size, "rtf": None, "seconds": [], "peak_memory_mb": None})
            continue
        waveforms = _noise(batch_size, seconds)
        subject.run(waveforms)  # warm-up: threads, kernels and caches
        working = working_memory(lambda: subject.run(waveforms), device) if subject.in_torch else None
        times = time_runs(lambda: subject.run(waveforms), runs, device)
        speed.append(
            {
                "batch_size": batch_size,
                "rtf": real_time_factor(times, batch_size * seconds),
                "seconds": times,
                "peak_memory_mb": None if working is None else (4 * subject.parameters + working) / 1e6,
            }
        )
    utterance = _noise(1, MACS_SECONDS)
    facts = {name: value for name, value in vars(subject).items() if name in FACTS}
    return {
        **facts,
        "mb_float32": 4 * subject.parameters / 1e6,
        "mb_float16": 2 * subject.parameters / 1e6,
        "mb_stored": subject.stored_bytes / 1e6,
        "gmacs_per_10s": count_macs(lambda: subject.run(utterance)) / 1e9 if subject.in_torch else None,
        "speed": speed,
    }


def _noise(batch_size: int, seconds: float) -> np.ndarray:
    """Quiet noise, float32 [B, N]: the time does not depend on what is said."""
    samples = np.random.default_rng(0).standard_normal((batch_size, round(seconds * SAMPLE_RATE)))
    return (0.1 * samples).astype(np.float32)


def print_report(report: Dict[str, Any]) -> None:
    """The table of `colld profile` on standard output."""
    console = Console()
    machine = report["machine"]
    table = Table(title="Encoders")
    table.add_column("", overflow="fold")
    for model in report["models"]:
        table.add_column(f"{model['role']}\n{model['source']}", justify="right", overflow="fold")

    def row(title: str, cell: Callable[[Dict[str, Any]], str]) -> None:
        table.add_row(title, *(cell(model) for model in report["models"]))

    row("parameters", lambda m: f"{m['parameters']:,}")
    row("MB as float32", lambda m: f"{m['mb_float32']:.1f}")
    row("MB as float16", lambda m: f"{m['mb_float16']:.1f}")
    row("MB as stored", lambda m: f"{m['mb_stored']:.1f}")
    row(f"GMACs for {MACS_SECONDS} s", lambda m: "-" if m["gmacs_per_10s"] is None else f"{m['gmacs_per_10s']:.2f}")
    row("layers × width", lambda m: f"{m['layers']} × {m['width']}")
    row("frames per second", lambda m: f"{m['frame_rate_hz']:g}")
    for i, first in enumerate(report["models"][0]["speed"]):
        size = first["batch_size"]
        factors = [model["speed"][i]["rtf"] for model in report["models"]]
        table.add_row(f"real-time factor, batch {size}", *("-" if rtf is None else f"{rtf:.4f}" for rtf in factors))
        peaks = [model["speed"][i]["peak_memory_mb"] for model in report["models"]]
        table.add_row(f"peak MB, batch {size}", *("-" if peak is None else f"{peak:.0f}" for peak in peaks))
    console.print(table)
    console.say(
        "real-time factor: processing time per second of audio, front-end included, median of "
        f"{report['runs']} runs on utterances of {report['utterance_seconds']:g} s; peak MB: float32 weights and "
        "working memory"
    )
    if any(model["gmacs_per_10s"] is None for model in report["models"]):
        console.say(
            "ONNX: the file as it is, and the time of its graph in ONNX Runtime, with what it holds behind the encoder:"
            " CTC layer, projections, keys and values of a decoder"
        )
    console.say(
        f"{machine['gpu'] or machine['cpu']}, {report['threads']} threads on {machine['cores']} cores, "
        f"torch {machine['torch']}"
    )
