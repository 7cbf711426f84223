"""A large teacher of which only the first blocks are needed: memory, and time to the first feature.

    python benchmarks/large_teachers.py [--blocks 8] [--repeats 3] [--name now] [--folder FOLDER] [--json FILE.json]

The encoder of omniASR 1B (48 blocks, 3.9 GB in float32) is written with random weights into a temporary folder, in
transformers' layout. Processes of their own then

    features   load the teacher for one layer, and compute its features of one second of audio: for the first time, and
               again (the sha256 of the file may be cached by then)
    start      build a student of four blocks and start it from blocks 12, 24, 36 and 48 (--init-layers)

Peak memory is that of the process less what it held before, after the same with a tiny teacher, and includes pages of
mapped files. The weights needed are those of the blocks and of what lies before them, in the precision asked for.
CPU seconds tell more than seconds where others use the machine. `--json` adds the runs under `--name` to those that a
file has already; `--folder` keeps the models for another run.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, Sequence, Tuple

import numpy as np

LAYERS, WIDTH, INNER, HEADS = 48, 1280, 5120, 16  # of omniASR 1B
STARTED = (12, 24, 36, 48)
SAMPLES = 16000
Shapes = Mapping[str, Sequence[int]]


def shapes_of(layers: int, width: int, inner: int) -> Dict[str, Tuple[int, ...]]:
    """Names and shapes of an encoder in transformers' CTC models of omniASR."""

    def linear(name: str, rows: int, columns: int) -> Dict[str, Tuple[int, ...]]:
        return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}

    def norm(name: str, channels: int) -> Dict[str, Tuple[int, ...]]:
        return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}

    shapes = {}
    for index, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        layer = f"subsampling.conv_layers.{index}"
        shapes[f"{layer}.conv.weight"] = (512, 512 if index else 1, kernel)
        shapes[f"{layer}.conv.bias"] = (512,)
        shapes.update(norm(f"{layer}.layer_norm", 512))
    shapes.update({**norm("subsampling.layer_norm", 512), **linear("subsampling.projection", width, 512)})
    shapes["encode_positions.conv.weight"] = (width, width // 16, 128)
    shapes["encode_positions.conv.bias"] = (width,)
    for block in (f"layers.{index}" for index in range(layers)):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes.update(linear(f"{block}.attention.{name}", width, width))
        shapes.update(linear(f"{block}.feed_forward.intermediate_dense", inner, width))
        shapes.update(linear(f"{block}.feed_forward.output_dense", width, inner))
        shapes.update({**norm(f"{block}.layer_norm", width), **norm(f"{block}.final_layer_norm", width)})
    shapes.update(norm("layer_norm", width))
    return {f"model.audio_tower.{name}": shape for name, shape in shapes.items()}


def settings_of(layers: int, width: int, inner: int) -> Dict:
    """config.json."""
    audio = dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=HEADS, intermediate_size=inner)
    return {"model_type": "omniasr_ctc", "audio_config": audio}


def write_directory(folder: Path, layers: int, width: int, inner: int, shards: int = 1, holes: bool = False) -> None:
    """A model in transformers' layout; in `shards` files with an index where there are several; holes: zeros that take
    no room on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings_of(layers, width, inner)))
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "sampling_rate": 16000}))
    shapes = shapes_of(layers, width, inner)
    if shards == 1:
        write_weights(folder / "model.safetensors", shapes, holes)
        return
    names, weight_map = list(shapes), {}
    for index in range(shards):
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        part = names[index * len(names) // shards : (index + 1) * len(names) // shards]
        write_weights(folder / file, {name: shapes[name] for name in part}, holes)
        weight_map.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_weights(path: Path, shapes: Shapes, holes: bool) -> None:
    """float32 in the format of safetensors: matrices at random, norms as they start."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    largest = max(int(np.prod(shape)) for shape in shapes.values())
    values = None if holes else 0.02 * np.random.default_rng(0).standard_normal(largest, dtype=np.float32)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items() if values is not None else ():
            neutral = "norm.weight" in name
            file.write(np.ones(shape, np.float32) if neutral else values[: int(np.prod(shape))])
        file.truncate(8 + len(text) + end)


def memory(kind: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    (line,) = [line for line in open("/proc/self/status", encoding="ascii") if line.startswith(kind)]
    return 1024 * int(line.split()[1])


class Clock:
    """Seconds since it was made, and those that this process had a CPU for."""

    def __init__(self) -> None:
        self.started = time.perf_counter(), time.process_time()

    def read(self, name: str) -> Dict[str, float]:
        seconds, cpu = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
        return {f"{name}_s": seconds, f"{name}_cpu_s": cpu}


def compute_features(directory: str, layer: int, dtype: str) -> Dict[str, float]:
    """Loads a teacher: seconds, and those of a CPU, to have it and to have its first features; bytes of its weights."""
    import torch

    from colld_fairseq.teachers import load_teacher

    clock = Clock()
    teacher = load_teacher(f"hf:{directory}", [layer], dtype=dtype)
    loaded = clock.read("load")
    teacher(torch.randn(1, SAMPLES), torch.tensor([SAMPLES]))
    held = sum(weight.numel() * weight.element_size() for weight in teacher.module.parameters())
    return {**loaded, **clock.read("first_feature"), "weights": held}


def start(directory: str, blocks: Iterable[int]) -> Dict[str, float]:
    """Starts a student from these blocks of a teacher of its shape: seconds; bytes of its weights."""
    from dataclasses import replace

    from colld_fairseq.checkpoints.names_hf import config_from_hf
    from colld_fairseq.models.colld_student import start_student
    from colld_fairseq.modules.encoder import StudentEncoder

    chosen = list(blocks)
    settings = json.loads((Path(directory) / "config.json").read_text())
    student = StudentEncoder(replace(config_from_hf(settings), layers=len(chosen)))
    weights = sum(weight.numel() * weight.element_size() for weight in student.parameters())
    clock = Clock()
    start_student(student, f"hf:{directory}", ",".join(map(str, chosen)))
    return {**clock.read("load"), "weights": weights}


def child(case: str, folder: str, blocks: int) -> Dict[str, float]:
    """One case with the large teacher, in this process, after the same with the tiny one."""

    def run(name: str, layer: int, started: Sequence[int]) -> Dict[str, float]:
        directory = f"{folder}/{name}"
        return start(directory, started) if case == "start" else compute_features(directory, layer, case)

    run("tiny", 1, [1, 2])
    before = memory("VmRSS")
    figures = run("large", blocks, STARTED)
    return {**figures, "peak": memory("VmHWM") - before}


def measure(case: str, folder: Path, blocks: int, caches: Path) -> Dict[str, float]:
    """:func:`child` in a process of its own, whose cache of hashes lies in `caches`."""
    command = [sys.executable, __file__, "--child", case, str(folder), "--blocks", str(blocks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(caches)}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def measure_all(folder: Path, blocks: int, repeats: int) -> Dict[str, List[Dict[str, float]]]:
    """Case -> its runs."""
    runs: Dict[str, List[Dict[str, float]]] = {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as caches:
            for case, dtype in (("float32", "float32"), ("float32 again", "float32"), ("bfloat16 again", "bfloat16")):
                runs.setdefault(f"features, {case}", []).append(measure(dtype, folder, blocks, Path(caches)))
            runs.setdefault("start", []).append(measure("start", folder, blocks, Path(caches)))
    return runs


def report(runs: Dict[str, List[Dict[str, float]]]) -> None:
    for case, results in runs.items():
        median = {key: statistics.median(run[key] for run in results) for key in results[0]}
        times = ", ".join(f"{name[:-2]} {value:.2f} s" for name, value in median.items() if name.endswith("_s"))
        print(
            f"{case:24} {times}; peak {median['peak'] / 1e9:.2f} GB, {median['peak'] / median['weights']:.2f} times the"
            f" weights needed ({median['weights'] / 1e9:.2f} GB)"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=8, help="layer whose features are computed")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each case; medians are printed")
    parser.add_argument("--name", default="now", help="of these runs in the JSON file")
    parser.add_argument("--folder", type=Path, help="where the models are written, or lie already; default: temporary")
    parser.add_argument("--json", type=Path, help="file for all raw numbers")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(*args.child, args.blocks)))
        return 0
    with contextlib.nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory() as name:
        for model, shape in {"large": (LAYERS, WIDTH, INNER), "tiny": (2, 32, 64)}.items():
            if not (Path(name) / model / "model.safetensors").is_file():
                write_directory(Path(name) / model, *shape)
        runs = measure_all(Path(name), args.blocks, args.repeats)
    print(f"{args.blocks} of {LAYERS} blocks of width {WIDTH}; medians of {args.repeats}")
    report(runs)
    if args.json:
        content = json.loads(args.json.read_text()) if args.json.is_file() else {}
        machine = {"python": platform.python_version(), "machine": platform.platform(), "cores": os.cpu_count()}
        content[args.name] = {"blocks": args.blocks, "machine": machine, "runs": runs}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
