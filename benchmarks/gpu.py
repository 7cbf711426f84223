"""Every CUDA path against the CPU, and what training costs on this GPU: `benchmarks/gpu.sh`.

    python benchmarks/gpu.py [--out DIR] [--minutes 8] [--only losses,step]
    python benchmarks/gpu.py --device cpu --preset tiny

First the checks (`gpu_checks.py`): losses, criterions with their teachers, decoders, a few updates of training in mixed
precision, resume, the dry run. Then the measurements (`gpu_measures.py`): transducer losses, a distillation step,
compiled and checkpointed encoders, the loader. A part that fails is reported and does not stop the others; what the
time does not suffice for is reported as left out. Exit code 1 where a check failed.
"""

import argparse
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import gpu_checks  # noqa: E402
import gpu_measures  # noqa: E402

from colld_fairseq.files import write_atomically  # noqa: E402
from colld_fairseq.profiling import describe_machine  # noqa: E402

PARTS: Dict[str, Callable[[argparse.Namespace], Iterator[Dict[str, Any]]]] = {
    **gpu_checks.PARTS,
    **gpu_measures.PARTS,
}


class Part(NamedTuple):
    """rows: what was checked or measured, each with its `name`, a check with `ok`; seconds: all of them took."""

    name: str
    rows: List[Dict[str, Any]]
    seconds: float
    failure: str = ""


def run_part(name: str, args: argparse.Namespace) -> Part:
    start, rows, failure = time.perf_counter(), [], ""
    try:
        for row in PARTS[name](args):
            rows.append(row)
            print(line(row), flush=True)
    except Exception as error:  # noqa: BLE001 - the other parts are of use all the same
        traceback.print_exc()
        failure = f"{type(error).__name__}: {error}"
    return Part(name, rows, time.perf_counter() - start, failure)


def line(row: Dict[str, Any]) -> str:
    return "  " + "  ".join(f"{key} {shown(value)}" if key != "name" else str(value) for key, value in row.items())


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return "ok" if value else "FAILED"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(result: Dict[str, Any]) -> str:
    """A page: a table of each part, its columns those that its rows have."""
    machine = result["machine"]
    text = [f"# {machine['gpu'] or machine['cpu']}", "", f"torch {machine['torch']}, preset {result['preset']}", ""]
    for part in result["parts"]:
        text += [f"## {part['name']} ({part['seconds']:.0f} s)", ""]
        if part["failure"]:
            text += [f"**failed**: {part['failure']}", ""]
        columns = list(dict.fromkeys(key for row in part["rows"] for key in row))
        if columns:
            text += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
            text += ["| " + " | ".join(shown(row.get(key, "")) for key in columns) + " |" for row in part["rows"]]
            text.append("")
    return "\n".join(text)


def write(args: argparse.Namespace, parts: List[Part]) -> None:
    machine = describe_machine(torch.device(args.device))
    result = {"machine": machine, "preset": args.preset, "parts": [part._asdict() for part in parts]}
    write_atomically(args.out / "gpu.json", json.dumps(result, indent=1).encode())
    write_atomically(args.out / "gpu.md", markdown(result).encode())


def failed(parts: List[Part]) -> List[str]:
    """Names of checks that failed, and of parts that ended with an error."""
    wrong = [f"{part.name}: {row['name']}" for part in parts for row in part.rows if row.get("ok") is False]
    return wrong + [f"{part.name}: {part.failure}" for part in parts if part.failure]


def parse_arguments(arguments=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--preset", choices=("tiny", "full"), help="default: full on cuda, else tiny")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="folder of gpu.json and gpu.md")
    parser.add_argument("--minutes", type=float, default=8.0, help="no part is begun after that")
    parser.add_argument("--only", default="", help=f"comma-separated parts: {', '.join(PARTS)}")
    args = parser.parse_args(arguments)
    args.parts = args.only.split(",") if args.only else list(PARTS)
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"--only {args.only}: there is no {sorted(unknown)[0]}")
    args.preset = args.preset or ("full" if args.device.startswith("cuda") else "tiny")
    args.tiny, args.cuda = args.preset == "tiny", args.device.startswith("cuda")
    return args


def run(args: argparse.Namespace) -> int:
    torch.backends.cudnn.allow_tf32 = False  # the CPU has no such rounding to compare with
    start, parts = time.perf_counter(), []
    for name in args.parts:
        if time.perf_counter() - start > 60 * args.minutes:
            parts.append(Part(name, [], 0.0, f"left out: {args.minutes:g} minutes are over"))
        else:
            print(name, flush=True)
            parts.append(run_part(name, args))
        write(args, parts)  # also of a run that is stopped
    wrong = failed(parts)
    print(f"written: {args.out}/gpu.json, {args.out}/gpu.md; {time.perf_counter() - start:.0f} s")
    print("\n".join(f"FAILED {one}" for one in wrong) or "all checks passed")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(run(parse_arguments()))
