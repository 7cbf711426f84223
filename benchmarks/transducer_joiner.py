"""Joiner and transducer loss together, as in a training step: `transducer_loss.py --joiner 512`.

Inputs are the projected outputs of encoder and predictor and the joiner's output layer; every loss gives the summed
-log P and the gradients of all of them. Each step runs in a process of its own, which has done a small one before: its
time, and its peak of memory above the inputs. The losses take turns, medians are compared as in the losses' own table.
Gradients are compared with those of today's way, the joiner's packed logits that the loss overwrites.

With --lattice-kd every loss has the divergence from a second joiner at all nodes besides; only ours have that.

Targets, for batches whose logits take more than 2 GB: at most 400 MB and 1.3 times the time of today's way for the
tiled loss (1.5 times with --lattice-kd); and, where today's does not fit into memory, less than 2 GB.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Callable, Dict, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from transducer_peers import PRUNE_RANGE, Case, Inputs, load_peers, make_inputs

from colld_fairseq.losses import (
    JoinerParts,
    LatticeTeacher,
    Nodes,
    gather_ranges,
    lattice_divergence,
    prune_ranges,
    pruned_transducer_loss,
    simple_transducer_loss,
    tiled_transducer_loss,
    transducer_loss,
)
from colld_fairseq.losses.transducer_arcs import LogitLayout
from colld_fairseq.modules.transducer import Joiner, SimpleJoiner

CASES = [
    Case("medium", [200] * 8, [40] * 8, 500),
    Case("large vocabulary", [250] * 8, [50] * 8, 8000),
    Case("first tenth of huge", [75] * 8, [120] * 8, 32000),
    Case("huge", [750] * 8, [120] * 8, 32000),
]
QUICK = [Case("short", [40] * 2, [8] * 2, 50), Case("speech", [30, 22, 9], [8, 7, 2], 40)]
TODAY, TILED = "ours", "ours, tiled"
MOST_TIME, MOST_TIME_KD, MOST_MB, MOST_MB_ALONE, LARGE_MB = 1.3, 1.5, 400, 2000, 2000


class Joined(NamedTuple):
    """A joiner and what it joins; all that `leaves` are get a gradient. teacher: logits at nodes, with --lattice-kd."""

    joiner: Joiner
    simple: SimpleJoiner
    frames: Tensor
    symbols: Tensor
    labels: Tensor
    lengths: Tuple[Tensor, Tensor]
    teacher: Optional[Callable[[Nodes], Tensor]]

    @property
    def leaves(self) -> Tuple[Tensor, ...]:
        return self.frames, self.symbols, self.joiner.output.weight, self.joiner.output.bias


class System(NamedTuple):
    """step: summed loss, whose backward pass is timed too; copies: tensors of the logits' size at its peak."""

    step: Callable[[Joined], Tensor]
    copies: float
    slow: bool = False


def make_joined(case: Case, args) -> Joined:
    """Random parts, logits of about unit variance."""
    width, like = args.joiner, dict(device=args.device, dtype=getattr(torch, args.dtype))
    torch.manual_seed(0)
    joiner = Joiner(1, 1, width, case.vocabulary, "tanh").to(**like)
    simple = SimpleJoiner(width, width, case.vocabulary).to(**like)
    shapes = (max(case.frames), max(case.counts) + 1)
    frames, symbols = (torch.randn(len(case.frames), n, width, **like).requires_grad_() for n in shapes)
    torch.nn.init.normal_(joiner.output.weight, std=(2 / width) ** 0.5)
    given = make_inputs(case._replace(vocabulary=2), "padded", args.device, torch.float32)
    labels = torch.randint(1, case.vocabulary, given.labels.shape, device=args.device)
    teacher = make_teacher(frames, symbols, joiner) if args.lattice_kd else None
    return Joined(joiner, simple, frames, symbols, labels, (given.frames, given.counts), teacher)


def make_teacher(frames: Tensor, symbols: Tensor, joiner: Joiner) -> Callable[[Nodes], Tensor]:
    """Another joiner of the same size, and other outputs of encoder and predictor."""
    frames, symbols = torch.randn_like(frames), torch.randn_like(symbols)
    weight, bias = (
        torch.randn_like(joiner.output.weight).mul_((2 / frames.shape[2]) ** 0.5),
        joiner.output.bias.detach(),
    )

    def logits(nodes: Nodes) -> Tensor:
        text, frame, label = torch.broadcast_tensors(*nodes)
        return torch.nn.functional.linear(torch.tanh(frames[text, frame] + symbols[text, label]), weight, bias)

    return logits


def today(given: Joined) -> Tensor:
    logits = given.joiner.lattice(given.frames, given.symbols, *(lengths.tolist() for lengths in given.lengths))
    loss = transducer_loss(logits, given.labels, *given.lengths, overwrite_logits=True).loss_sum
    if given.teacher is None:
        return loss
    frames, counts = (lengths.tolist() for lengths in given.lengths)
    layout = LogitLayout(frames, [count + 1 for count in counts], packed=True)
    return loss + lattice_divergence(logits, layout, given.teacher, frames).losses.sum()


def pruned(given: Joined) -> Tensor:
    am, lm = given.simple(given.frames, given.symbols)
    simple = simple_transducer_loss(am, lm, given.labels, *given.lengths)
    ranges = prune_ranges(simple.blank_posterior, simple.label_posterior, *given.lengths, PRUNE_RANGE)
    logits = given.joiner.pruned(given.frames, gather_ranges(given.symbols, ranges))
    arguments = ranges, given.labels, *given.lengths
    return simple.loss_sum + pruned_transducer_loss(logits, *arguments, overwrite_logits=True).loss_sum


def systems(args) -> Tuple[Dict[str, System], Dict[str, str]]:
    """(what is compared, reasons why others are missing)."""
    peers, missing = load_peers(args.device, args.threads)

    def tiled(given: Joined) -> Tensor:
        output = given.joiner.output
        parts = JoinerParts(given.frames, given.symbols, output.weight, output.bias, given.joiner.activation)
        teacher = LatticeTeacher(given.teacher, given.lengths[0].tolist()) if given.teacher else None
        options = dict(budget_mb=args.budget_mb, teacher=teacher)
        out = tiled_transducer_loss(parts, given.labels, *given.lengths, **options)
        return out.loss_sum if teacher is None else out.loss_sum + out.divergences.sum()

    def padded(peer) -> Callable[[Joined], Tensor]:
        def step(given: Joined) -> Tensor:
            logits = given.joiner(given.frames[:, :, None], given.symbols[:, None])
            return peer.step(Inputs((logits,), given.labels, *given.lengths))

        return step

    if args.lattice_kd:
        return {TODAY: System(today, 3), TILED: System(tiled, 0)}, missing
    both = {TODAY: System(today, 1), TILED: System(tiled, 0), "ours, pruned": System(pruned, 0.25)}
    for name in ("autograd wavefront", "warprnnt_numba", "torchaudio"):
        if name in peers:
            both[name] = System(padded(peers[name]), peers[name].copies, peers[name].slow)
    return both, missing


def logit_mb(case: Case, args) -> float:
    return 1e-6 * getattr(torch, args.dtype).itemsize * case.padded_nodes * case.vocabulary


def applicable(case: Case, compared: Dict[str, System], free_mb: float, args):
    """(names of the systems that run on a case, reasons why others do not)."""
    names, reasons = [], {}
    for name, system in compared.items():
        needed = 1.2 * system.copies * logit_mb(case, args)
        if system.slow and not args.slow_runs:
            reasons[name] = "takes minutes (--slow-runs 0)"
        elif needed > 0.8 * free_mb:
            reasons[name] = f"would need {needed / 1000:.1f} GB of memory"
        else:
            names.append(name)
    return names, reasons


def measure_here(name: str, case: Case, args, kilobytes) -> Dict:
    """One step in this process: seconds, MB above the inputs, loss; gradients go to the file `args.gradients`."""
    system, cuda = systems(args)[0][name], args.device.startswith("cuda")
    system.step(make_joined(QUICK[1], args)).backward()  # libraries, compiled code
    given = make_joined(case, args)
    if cuda:
        torch.cuda.synchronize(args.device)
        torch.cuda.reset_peak_memory_stats(args.device)
        before = torch.cuda.memory_allocated(args.device) / 1e6
    else:
        before = 1.024e-3 * kilobytes("/proc/self/status", "VmRSS")
    start = time.perf_counter(), time.process_time()
    loss = system.step(given)
    loss.backward()
    if cuda:
        torch.cuda.synchronize(args.device)
        peak = torch.cuda.max_memory_allocated(args.device) / 1e6
    else:
        peak = 1.024e-3 * kilobytes("/proc/self/status", "VmHWM")
    seconds = [end - begin for end, begin in zip((time.perf_counter(), time.process_time()), start)]
    if args.gradients:
        torch.save([leaf.grad.cpu() for leaf in given.leaves], args.gradients)
    return {"seconds": seconds, "peak_mb": peak - before, "loss": loss.item()}


def measure(name: str, case: Case, args, gradients: str = "") -> Dict:
    """`measure_here` in a process of its own."""
    script = str(Path(__file__).with_name("transducer_loss.py"))
    command = [sys.executable, script, "--device", args.device, "--joiner", str(args.joiner)]
    command += ["--dtype", args.dtype, "--budget-mb", str(args.budget_mb), "--threads", str(args.threads)]
    command += ["--peak-of", name, case.name]
    command += ["--quick"] * args.quick + ["--lattice-kd"] * args.lattice_kd
    command += ["--gradients", gradients] if gradients else []
    completed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(completed.stdout.splitlines()[-1])


def differences(path: str, reference: str) -> Dict[str, float]:
    """Of two files of gradients: the norm of what differs over that of the reference."""
    own, wanted = (torch.load(file, weights_only=True) for file in (path, reference))
    names = ("frames", "symbols", "weight", "bias")
    return {name: float((a - b).norm() / b.norm()) for name, a, b in zip(names, own, wanted)}


def run_case(case: Case, compared: Dict[str, System], args, free_mb: float) -> Dict:
    names, skipped = applicable(case, compared, free_mb, args)
    rounds, errors = defaultdict(list), {}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / f"{index}.pt") for index, name in enumerate(names)}
        for index in range(args.runs):
            for name in names:
                if compared[name].slow and index >= args.slow_runs:
                    continue
                rounds[name].append(measure(name, case, args, "" if index else files[name]))
        if TODAY in names:
            others = [name for name in names if name not in (TODAY, "ours, pruned")]
            errors = {name: differences(files[name], files[TODAY]) for name in others}
    clock = 0 if args.device.startswith("cuda") else 1
    seconds = {name: statistics.median(run["seconds"][clock] for run in runs) for name, runs in rounds.items()}
    return {
        "case": case._asdict(),
        "logits_mb": logit_mb(case, args),
        "seconds": seconds,
        "peak_mb": {name: statistics.median(run["peak_mb"] for run in runs) for name, runs in rounds.items()},
        "losses": {name: runs[0]["loss"] for name, runs in rounds.items()},
        "gradient_errors": errors,
        "all": dict(rounds),
        "skipped": skipped,
        "lattice_kd": args.lattice_kd,
    }


def missed_targets(result: Dict) -> Dict[str, float]:
    """Targets that a case misses -> what was measured."""
    seconds, peak = result["seconds"], result["peak_mb"][TILED]
    if result["logits_mb"] < LARGE_MB:
        return {}
    if TODAY not in seconds:
        return {"MB": peak} if peak > MOST_MB_ALONE else {}
    ratio, most = seconds[TILED] / seconds[TODAY], MOST_TIME_KD if result["lattice_kd"] else MOST_TIME
    return {**({"time": ratio} if ratio > most else {}), **({"MB": peak} if peak > MOST_MB else {})}


def print_case(result: Dict) -> None:
    case = Case(**result["case"])
    print(
        f"\n{case.name}: B {len(case.frames)}, T {max(case.frames)}, U {max(case.counts)}, V {case.vocabulary}; ",
        end="",
    )
    print(f"logits {result['logits_mb']:.0f} MB\n{'':<22}{'s':>10}{'peak MB':>10}{'time / ours':>13}")
    base = result["seconds"].get(TODAY)
    for name, seconds in result["seconds"].items():
        ratio = f"{seconds / base:>13.2f}" if base else ""
        print(f"{name:<22}{seconds:>10.2f}{result['peak_mb'][name]:>10.0f}{ratio}")
    for name, reason in result["skipped"].items():
        print(f"{name:<22}left out: {reason}")
    for name, errors in result["gradient_errors"].items():
        apart = ", ".join(f"{part} {error:.1e}" for part, error in errors.items())
        loss = abs(result["losses"][name] / result["losses"][TODAY] - 1)
        print(f"{name}: loss differs by {loss:.1e}, gradients by {apart}")
    for target, value in missed_targets(result).items():
        print(f"MISSED: {target} {value:.2f}")


def run(args, hardware: str, free_mb: float) -> Dict:
    compared, missing = systems(args)
    print(f"{hardware}, torch {torch.__version__}, joiner of {args.joiner}, {args.dtype}, budget {args.budget_mb:g} MB")
    if args.lattice_kd:
        print("beside each loss the full-lattice distillation from another joiner")
    for name, reason in missing.items():
        print(f"{name} is left out: {reason}")
    result = {
        "hardware": hardware,
        "torch": torch.__version__,
        "joiner": args.joiner,
        "dtype": args.dtype,
        "budget_mb": args.budget_mb,
    }
    result.update(runs=args.runs, missing=missing, cases=[])
    for case in args.cases:
        result["cases"].append(run_case(case, compared, args, free_mb))
        print_case(result["cases"][-1])
    return result
