"""What each of the CPU kernels (colld_fairseq/modules/cpu) saves of the pass that it is in.

    python benchmarks/cpu_kernels.py --json benchmarks/results/cpu_kernels.json
    python benchmarks/cpu_kernels.py --clock cpu        # on a machine that is busy with other work

Every pass is run in turn with all kernels and without one of them, in one process; the figures are medians over the
rounds, of the times and of each round's ratio. A kernel stays if some pass without it takes at least 1.1 times as
long. Random weights; HuBERT Base without gradients is a teacher, deep_thin with gradients a student in training
(forward and backward).
"""

import argparse
import contextlib
import json
import statistics
import time
from unittest import mock

import torch

from colld_fairseq.models.encoder_presets import HUBERT_BASE, PRESETS
from colld_fairseq.modules.cpu import KERNELS, cached, plain_operators
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.profiling import describe_machine

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SAMPLE_RATE = 16000


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width-divisor", type=int, default=1, choices=(1, 2, 4), help="to try the benchmark itself")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    return parser.parse_args(arguments)


def without(kernel):
    """A context in which `kernel` is not used."""
    if kernel in KERNELS:
        return plain_operators(kernel)
    assert kernel == "cached weights"
    return mock.patch.object(cached.CachedFromWeights, "get", lambda self, weights, make: make())


def encoder(fields, divisor, **more):
    config = EncoderConfig(**{**fields, **more})
    for name in ("embed_dim", "ffn_dim", "conv_pos_groups"):
        setattr(config, name, getattr(config, name) // divisor)
    config.conv_layers = [[channels // divisor, *rest] for channels, *rest in config.conv_layers]
    torch.manual_seed(0)
    return StudentEncoder(config)


def batch(*seconds):
    """Noise: the time does not depend on what is said."""
    lengths = torch.tensor([round(length * SAMPLE_RATE) for length in seconds])
    return 0.1 * torch.randn(len(lengths), int(lengths.max())), lengths


def inference(model, *seconds):
    source, lengths = batch(*seconds)
    model.eval()

    def run():
        with torch.no_grad():
            model(source, lengths)

    return run


def training_step(model, *seconds):
    source, lengths = batch(*seconds)
    model.train()

    def run():
        model.zero_grad(set_to_none=True)
        model(source, lengths).x.sum().backward()

    return run


def passes(divisor):
    """name -> (function, the kernels that take part)."""
    base = encoder(dict(HUBERT_BASE, layers=12), divisor)
    thin = encoder(PRESETS["deep_thin"], divisor)
    waveform = ("extractor", "positions")
    return {
        "HuBERT Base, inference, 10 s": (inference(base, 10), (*waveform, "cached weights")),
        "HuBERT Base, inference, 1 s": (inference(base, 1), (*waveform, "cached weights")),
        "HuBERT Base, inference, 10 + 8 + 5 + 3 s": (inference(base, 10, 8, 5, 3), (*waveform, "packing")),
        "deep_thin, training, 10 + 8 + 5 + 3 s": (training_step(thin, 10, 8, 5, 3), (*waveform, "packing")),
    }


def measure(run, kernels, rounds, clock):
    """Rows of one pass: with all kernels, and without each of them."""
    seconds = {name: [] for name in ("all", *kernels)}
    for index in range(rounds + 1):
        for name, times in seconds.items():
            with contextlib.nullcontext() if name == "all" else without(name):
                start = clock()
                run()
                times += [clock() - start] if index else []  # the first round warms up
    rows = []
    for name in kernels:
        ratio = statistics.median(there / here for there, here in zip(seconds[name], seconds["all"], strict=True))
        rows.append({"kernel": name, "without_s": statistics.median(seconds[name]), "ratio": ratio})
    return statistics.median(seconds["all"]), rows


def main(arguments=None):
    args = parse_arguments(arguments)
    torch.set_num_threads(args.threads)
    results = {"machine": describe_machine(torch.device("cpu")), "arguments": vars(args), "passes": {}}
    for name, (run, kernels) in passes(args.width_divisor).items():
        median, rows = measure(run, kernels, args.rounds, CLOCKS[args.clock])
        results["passes"][name] = {"with_all_s": median, "without": rows}
        print(f"{name}: {median:.3f} s", flush=True)
        for row in rows:
            print(f"    without {row['kernel']:<15} {row['without_s']:.3f} s   {row['ratio']:.2f} x", flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
