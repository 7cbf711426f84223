"""How long and how large training is on a device: parts of `gpu.py`, each yielding rows with a name and figures."""

import statistics
from argparse import Namespace
from typing import Callable, Dict, Iterator, NamedTuple, Optional

import distillation_step
import torch
import transducer_joiner
import transducer_loss
from transducer_peers import Case, load_peers, make_inputs

from colld_fairseq.models.encoder_presets import PRESETS
from colld_fairseq.modules.block_runs import BlockRuns
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.profiling import time_runs, working_memory

WARM_UP, RUNS = 2, 5
SPEECH_CASE = transducer_loss.speech_case("speech", 32, 500, 0.3)
LARGE_CASE = Case("large vocabulary", [250] * 16, [50] * 16, 8000)
JOINER = 512
BUDGET_MB = 256.0  # of the tiled loss on a GPU
#: Dense bfloat16 operations per second by NVIDIA's data sheets, by a part of the device's name.
DATA_SHEETS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12}
STEP = ["--pairs", "12"]
TINY_STEP = ["--width", "64", "--batch-seconds", "2", "--utterance-seconds", "1", "--pairs", "2"]


class Measured(NamedTuple):
    """Median time, and memory at the peak beyond what was there before (None where it cannot be asked)."""

    ms: float
    mb: Optional[float]


def measured(function: Callable, args) -> Measured:
    device = torch.device(args.device)
    warm_up, runs = (0, 1) if args.tiny else (WARM_UP, RUNS)
    memory = working_memory(function, device)
    time_runs(function, warm_up, device)
    seconds = statistics.median(time_runs(function, runs, device))
    return Measured(1e3 * seconds, None if memory is None else memory / 1e6)


def transducer_losses(args) -> Iterator[Dict]:
    """Ours on given logits, full, packed and pruned, beside torchaudio's where it imports. Memory is beyond the logits;
    what works in place overwrites them, which the next run then takes for logits.
    """
    peers, missing = load_peers(args.device, torch.get_num_threads())
    for case in transducer_loss.QUICK[1:2] if args.tiny else [SPEECH_CASE, LARGE_CASE]:
        for name in ("ours", "ours, in place", "ours, packed", "ours, pruned", "autograd wavefront", "torchaudio"):
            if name in missing:
                yield dict(name=f"{case.name}: {name}", note=f"left out: {missing[name]}")
                continue
            inputs = make_inputs(case, peers[name].layout, args.device, torch.float32)
            row = measured(lambda: transducer_loss.step(peers[name], inputs), args)
            logits = sum(leaf.numel() * leaf.element_size() for leaf in inputs.leaves) / 1e6
            yield dict(name=f"{case.name}: {name}", **row._asdict(), logits_mb=logits)


def joiner_and_loss(args) -> Iterator[Dict]:
    """Joiner and loss together: all logits (packed, overwritten), in tiles, pruned."""
    options = Namespace(device=args.device, joiner=JOINER, dtype="float32", budget_mb=BUDGET_MB, lattice_kd=False)
    options.threads = torch.get_num_threads()
    compared, _ = transducer_joiner.systems(options)
    for case in transducer_joiner.QUICK[1:] if args.tiny else [SPEECH_CASE, LARGE_CASE]:
        for name in (transducer_joiner.TODAY, transducer_joiner.TILED, "ours, pruned"):
            given = transducer_joiner.make_joined(case, options)
            row = measured(lambda: compared[name].step(given).backward(), args)
            yield dict(name=f"{case.name}: {name}", **row._asdict())


def distillation(args) -> Iterator[Dict]:
    """A step of a 24 x 1024 teacher and its 12 x 1024 student: its parts, arithmetic, and the loader's rate."""
    arguments = ["--device", args.device, *(TINY_STEP if args.tiny else STEP)]
    arguments += ["--runs", "1", "--warm-up", "0"] if args.tiny else ["--preset", "full", "--dtype", "bfloat16"]
    result = distillation_step.run(distillation_step.parse_arguments(arguments))
    for name, seconds in result["seconds"].items():
        yield dict(name=name, ms=1e3 * seconds)
    reached = result["model_flops_per_second"]
    product, sheet = matrix_product(args), data_sheet(args)
    yield dict(
        name="step",
        ms=1e3 * result["step_seconds"],
        mb=result["peak_memory_mb"],
        tflops_per_second=reached / 1e12,
        share_of_a_matrix_product=reached / product,
        **({"model_flop_utilization": reached / sheet} if sheet else {}),
    )
    have, need = result["data_audio_seconds_per_second"], result["step_audio_seconds_per_second"]
    yield dict(name="loader, 2 workers", audio_per_second=have, step_takes=need, workers_needed=2 * need / have)


def matrix_product(args) -> float:
    """Operations per second of a product of large matrices here, in the step's precision."""
    size = 256 if args.tiny else 8192
    dtype = torch.bfloat16 if args.cuda else torch.float32
    a, b = (torch.randn(size, size, device=args.device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / (measured(lambda: a @ b, args).ms / 1e3)


def data_sheet(args) -> Optional[float]:
    name = torch.cuda.get_device_name(args.device) if args.cuda else ""
    return next((flops for part, flops in DATA_SHEETS.items() if part in name), None)


def encoders(args) -> Iterator[Dict]:
    """The student forward and backward: plain, checkpointed, compiled."""
    config = dict(PRESETS["conformer_1024"])
    if args.tiny:
        config.update(layers=2, embed_dim=64, ffn_dim=128, attention_heads=2)
    dtype = torch.bfloat16 if args.cuda else torch.float32
    encoder = StudentEncoder(EncoderConfig(**config)).to(args.device, dtype).train()
    batch, seconds = (2, 1) if args.tiny else (16, 15)
    source = torch.randn(batch, 100 * seconds, 80, device=args.device, dtype=dtype)

    def step():
        encoder.zero_grad()
        encoder(source).x.float().pow(2).mean().backward()

    ways = {"plain": BlockRuns(), "checkpointed": BlockRuns(True)}
    if not args.tiny:  # a compiler takes its time
        ways["compiled"] = BlockRuns(compiled=True)
        ways["compiled and checkpointed"] = BlockRuns(True, True)
    for name, runs in ways.items():
        encoder.runs = runs
        step()  # compiles
        yield dict(name=name, **measured(step, args)._asdict())


PARTS = {
    "transducer losses": transducer_losses,
    "joiner and loss": joiner_and_loss,
    "distillation step": distillation,
    "encoders": encoders,
}
