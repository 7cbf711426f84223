"""Transducer losses side by side: time of forward + backward, and peak memory.

    python benchmarks/transducer_loss.py [--quick] [--cases short,...] [--runs 5] [--json FILE]
    python benchmarks/transducer_loss.py --joiner 512 [--budget-mb 64] [--lattice-kd] ...

The second form times a joiner together with the losses (`transducer_joiner.py`). In the first every loss gets the
same random logits and gives the summed -log P and its gradient; the joiner, which makes the logits, is not timed
(without it the pruned loss saves less than in training, where the joiner works on the pruned range only). The losses
take turns, medians are compared: of the time on the clock on a GPU, of the time the processor spent on this process
on a CPU, which does not count what other programs take from it (with --threads 1, the default, both are the same on
an idle machine). Peers that take minutes run --slow-runs times, after they have compiled their code on a small batch.
Values and gradients are compared in the first round, with our gradient in float64 where there is memory for it, else
with ours as it is. Peak memory is taken in a process of its own for each loss: what a step adds to the process,
logits included (CUDA: what the allocator gave out). A peer that would not fit into memory is left out.

Targets: 20 times as fast as warprnnt_numba on a CPU, 3 times as the plain autograd wavefront; at most 0.3 times
the logits beyond logits and gradient; pruned at a vocabulary of 8000: 4 times as fast as the full loss with a
fifth of its peak. Exit code 1 if one is missed (with --quick there are none).
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
import transducer_joiner
from transducer_peers import PRUNE_RANGE, Case, load_peers, make_inputs

TARGETS = {"warprnnt_numba": 20.0, "autograd wavefront": 3.0, "pruned speed": 4.0, "pruned memory": 5.0, "extra": 0.3}
LARGE_VOCABULARY = 8000  # from here the pruned loss has targets


def speech_case(name: str, utterances: int, vocabulary: int, spread: float) -> Case:
    """Lengths like train-clean-100's: most utterances of 12 to 16 s, some much shorter; 25 frames and about 5
    subwords a second. ``spread`` 0: as bucketing by length would have it."""
    draw = random.Random(0)
    seconds = [15.0 - spread * min(draw.expovariate(1 / 4.0), 13.0) for _ in range(utterances)]
    frames = [round(25 * s) for s in seconds]
    return Case(name, frames, [round(s * draw.uniform(4.0, 6.0)) for s in seconds], vocabulary)


CASES = [
    Case("short", [200] * 4, [50] * 4, 257),
    Case("medium", [200] * 8, [40] * 8, 500),
    speech_case("speech, random order", 8, 500, 1.0),
    speech_case("speech, sorted", 8, 500, 0.1),
    Case("large vocabulary", [250] * 8, [50] * 8, LARGE_VOCABULARY),
]
QUICK = [
    Case("short", [40] * 2, [8] * 2, 50),
    Case("speech", [30, 22, 9], [8, 7, 2], 40),
    Case("large vocabulary", [30] * 2, [12] * 2, LARGE_VOCABULARY),
]


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the logits")
    parser.add_argument("--quick", action="store_true", help="small shapes, to see that it runs")
    parser.add_argument("--cases", help="comma-separated beginnings of the cases' names; default: all")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--slow-runs", type=int, default=1, help="of peers that take minutes; 0 leaves them out")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument("--joiner", type=int, metavar="WIDTH", help="time a joiner of that width and the losses")
    parser.add_argument("--budget-mb", type=float, default=64.0, help="of the tiled loss, with --joiner")
    parser.add_argument("--lattice-kd", action="store_true", help="with --joiner: distillation at all nodes besides")
    parser.add_argument("--peak-of", nargs=2, metavar=("LOSS", "CASE"), help=argparse.SUPPRESS)
    parser.add_argument("--gradients", metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    source = transducer_joiner if args.joiner else sys.modules[__name__]
    cases = source.QUICK if args.quick else source.CASES
    if args.cases:
        wanted = tuple(args.cases.split(","))
        cases = [case for case in cases if case.name.startswith(wanted)]
    if not cases:
        parser.error(f"--cases {args.cases}: no such case")
    args.cases = cases
    return args


def now(args):
    """(wall, CPU) seconds after the device has finished."""
    if args.device.startswith("cuda"):
        torch.cuda.synchronize(args.device)
    return time.perf_counter(), time.process_time()


def free_bytes(args):
    if args.device.startswith("cuda"):
        return torch.cuda.mem_get_info(args.device)[0]
    return 1024 * kilobytes("/proc/meminfo", "MemAvailable")


def step(peer, inputs):
    """(loss, gradients)"""
    loss = peer.step(inputs)
    loss.backward()
    gradients = [leaf.grad for leaf in inputs.leaves]
    for leaf in inputs.leaves:
        leaf.grad = None
    return loss.item(), gradients


def logit_bytes(case, args):
    return case.padded_nodes * case.vocabulary * (4 if args.dtype == "float32" else 2)


def applicable(case, peers, args):
    """(names of the losses that run on a case, reasons why others do not)."""
    names, reasons = [], {}
    for name, peer in peers.items():
        gigabytes = (peer.copies + 1) * logit_bytes(case, args) / 2**30  # + 1: the logits of the others stay
        if peer.slow and not args.slow_runs:
            reasons[name] = "takes minutes (--slow-runs 0)"
        elif peer.layout == "packed" and case.nodes == case.padded_nodes:
            reasons[name] = "nothing to pack: all lengths are equal"
        elif peer.layout != "pruned" and gigabytes > 0.8 * free_bytes(args) / 2**30:
            reasons[name] = f"would need {gigabytes:.1f} GB of memory"
        else:
            names.append(name)
    return names, reasons


def measure_time(case, names, peers, args):
    """(wall and CPU seconds of every run, losses, largest errors of the padded gradients)."""
    dtype = getattr(torch, args.dtype)
    inputs = {layout: make_inputs(case, layout, args.device, dtype) for layout in {peers[n].layout for n in names}}
    seconds, losses, errors = defaultdict(list), {}, {}
    exact = exact_gradient(peers["ours"], inputs["padded"], args)
    for name in names:
        if peers[name].slow:  # for them the first round counts
            step(peers[name], make_inputs(QUICK[0], peers[name].layout, args.device, dtype))
    for round_index in range(args.runs + 1):  # the first round warms up, and is compared
        for name in names:
            peer = peers[name]
            if peer.slow and round_index >= args.slow_runs:
                continue
            given = inputs[peer.layout]
            if name == "ours, in place":
                given = given._replace(leaves=tuple(x.detach().clone().requires_grad_() for x in given.leaves))
            start = now(args)
            loss, gradients = step(peer, given)
            end = now(args)
            if round_index or peer.slow:
                seconds[name].append([b - a for a, b in zip(start, end)])
            if not round_index and peer.layout == "padded":
                exact = gradients[0] if exact is None else exact  # ours runs first
                losses[name] = loss
                errors[name] = (gradients[0] - exact).abs().max().item()
            del gradients, given
        exact = None
    return seconds, losses, errors


def exact_gradient(peer, inputs, args):
    """Gradient of ours in float64; None where there is no memory for that."""
    (logits,) = inputs.leaves
    if 3 * 8 * logits.numel() > 0.5 * free_bytes(args):
        return None
    return step(peer, inputs._replace(leaves=(logits.detach().double().requires_grad_(),)))[1][0].float()


def peak_bytes(args, name, case):
    """What one step of one loss adds to this process."""
    peer, dtype = load_peers(args.device, args.threads)[0][name], getattr(torch, args.dtype)
    step(peer, make_inputs(QUICK[1], peer.layout, args.device, dtype))  # libraries, compiled code
    if args.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(args.device)
        before = torch.cuda.memory_allocated(args.device)
        step(peer, make_inputs(case, peer.layout, args.device, dtype))
        return torch.cuda.max_memory_allocated(args.device) - before
    before = kilobytes("/proc/self/status", "VmRSS")
    step(peer, make_inputs(case, peer.layout, args.device, dtype))
    return 1024 * (kilobytes("/proc/self/status", "VmHWM") - before)


def kilobytes(path, field):
    """A figure of Linux'. Not getrusage for a peak: a child's ru_maxrss begins with what its parent had."""
    with open(path, encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":"))


def measure_peak(case, name, args):
    """:func:`peak_bytes` in a process of its own."""
    command = [sys.executable, __file__, "--device", args.device, "--dtype", args.dtype, "--peak-of", name, case.name]
    command += ["--threads", str(args.threads)] + ["--quick"] * args.quick
    completed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(completed.stdout.split()[-1])


def run_case(case, peers, args):
    names, skipped = applicable(case, peers, args)
    seconds, losses, errors = measure_time(case, names, peers, args)
    peaks = {name: measure_peak(case, name, args) for name in names if not (peers[name].slow and not args.quick)}
    wall, cpu = ({name: statistics.median(run[i] for run in seconds[name]) for name in names} for i in (0, 1))
    compared = wall if args.device.startswith("cuda") else cpu
    logits = logit_bytes(case, args)
    result = {
        "case": case._asdict(),
        "logits_mb": logits / 2**20,
        "seconds": wall,
        "cpu_seconds": cpu,
        "all_seconds": dict(seconds),
        "peak_mb": {name: size / 2**20 for name, size in peaks.items()},
        "losses": losses,
        "gradient_errors": errors,
        "skipped": skipped,
        "times_ours": {name: compared[name] / compared["ours"] for name in names},
        "ratios": {},
    }
    ratios = result["ratios"]
    for name in names:
        if name in ("warprnnt_numba", "autograd wavefront", "torchaudio"):
            ratios[name] = compared[name] / compared["ours"]
            ratios[f"{name} / in place"] = compared[name] / compared["ours, in place"]
    ratios["extra"] = max(peaks["ours"] / logits - 2, 0.0)
    ratios["pruned speed"] = compared["ours"] / compared["ours, pruned"]
    ratios["pruned memory"] = peaks["ours"] / peaks["ours, pruned"]
    return result


def missed_targets(result, args):
    """Names of the targets that a case misses."""
    ratios, missed = result["ratios"], []
    for name, target in TARGETS.items() if not args.quick else ():
        if name not in ratios or (name.startswith("pruned") and result["case"]["vocabulary"] < LARGE_VOCABULARY):
            continue
        if name == "warprnnt_numba" and args.device != "cpu":
            continue
        if ratios[name] > target if name == "extra" else ratios[name] < target:
            missed.append(name)
    return missed


def print_case(result, args):
    case, ratios = Case(**result["case"]), result["ratios"]
    print(
        f"\n{case.name}: {len(case.frames)} utterances, T <= {max(case.frames)}, U <= {max(case.counts)}, "
        f"V = {case.vocabulary}, {case.nodes / case.padded_nodes:.0%} of the padded nodes; "
        f"logits {result['logits_mb']:.0f} MB"
    )
    print(f"{'':<22}{'ms':>10}{'CPU ms':>10}{'peak MB':>10}{'x logits':>10}{'time / ours':>13}")
    for name, seconds in result["seconds"].items():
        peak = result["peak_mb"].get(name)
        memory = f"{peak:>10.0f}{peak / result['logits_mb']:>10.2f}" if peak is not None else f"{'-':>10}{'-':>10}"
        cpu = 1e3 * result["cpu_seconds"][name]
        print(f"{name:<22}{1e3 * seconds:>10.1f}{cpu:>10.1f}{memory}{result['times_ours'][name]:>13.2f}")
    for name, reason in result["skipped"].items():
        print(f"{name:<22}left out: {reason}")
    base = result["losses"]["ours"]
    worst = max(abs(loss / base - 1) for loss in result["losses"].values())
    print(
        f"losses agree to {worst:.1e}; errors of gradients: "
        + ", ".join(f"{name} {error:.1e}" for name, error in result["gradient_errors"].items())
    )
    print(
        f"beyond logits and gradient {ratios['extra']:.2f} x logits; pruned (S = {PRUNE_RANGE}): "
        f"{ratios['pruned speed']:.1f} times as fast, 1/{ratios['pruned memory']:.1f} of the peak"
    )
    for name in missed_targets(result, args):
        print(f"MISSED: {name} {ratios[name]:.2f}, target {TARGETS[name]:g}")


def hardware(args):
    if args.device.startswith("cuda"):
        return torch.cuda.get_device_name(args.device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"


def run(args):
    peers, missing = load_peers(args.device, args.threads)
    result = {"hardware": hardware(args), "torch": torch.__version__, "dtype": args.dtype, "runs": args.runs}
    print(f"{result['hardware']}, torch {result['torch']}, {args.dtype} logits")
    for name, reason in missing.items():
        print(f"{name} is left out: {reason}")
    result["missing"], result["cases"] = missing, []
    for case in args.cases:
        result["cases"].append(run_case(case, peers, args))
        print_case(result["cases"][-1], args)
    return result


def main():
    args = parse_arguments()
    if args.peak_of:
        name, case = args.peak_of[0], next(c for c in args.cases if c.name == args.peak_of[1])
        measured = transducer_joiner.measure_here(name, case, args, kilobytes) if args.joiner else None
        print(json.dumps(measured) if measured else peak_bytes(args, name, case))
        return 0
    result = transducer_joiner.run(args, hardware(args), free_bytes(args) / 1e6) if args.joiner else run(args)
    if args.json:
        temporary = Path(args.json + ".tmp")
        temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
        os.replace(temporary, args.json)
    if args.joiner:
        return int(any(transducer_joiner.missed_targets(case) for case in result["cases"]))
    return int(any(missed_targets(case, args) for case in result["cases"]))


if __name__ == "__main__":
    sys.exit(main())
