"""One chunk-wise student with and without delay-bounded distillation, at every latency:

    python -m examples.any_latency.run OUT --data DIR [--student CKPT] [--teacher-ctc CKPT] [--updates 6000] ...

DIR holds train.tsv, dev.tsv and test.tsv. The systems are trained by student.yaml here, alike but for --ctc-kd: `plain`
without, `self` from their own full-context mode, and `teacher` where one is given. Each is decoded on test.tsv with
chunks of 80, 160, 320 and 640 ms and as a whole, and its label delay measured; OUT/latency.md is the table. Every job
is a command line that you can run yourself (OUT/commands.sh). A finished job is not run again, a killed one resumes.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from colld_fairseq.files import write_atomically
from examples.driver import recipes
from examples.driver.jobs import Job, at_a_time, run_jobs
from examples.driver.recipes import SMALL, Config, Shape, override, read_yaml, resolved, training_job

HERE = Path(__file__).resolve().parent
LATENCIES = ["80", "160", "320", "640", "full"]
LABELS = {
    "plain": "text alone",
    "self": "and its own full-context mode",
    "teacher": "and a teacher with full context",
}
Args = argparse.Namespace


def main() -> None:
    args = arguments(sys.argv[1:])
    run_jobs(args.out, make_jobs(args), at_a_time(args.jobs))
    table = write_table(args)
    write_atomically(args.out / "latency.md", table.encode())
    print(table)


def systems(args: Args) -> List[str]:
    return ["plain", "self", *(["teacher"] if args.teacher_ctc else [])]


def make_jobs(args: Args) -> List[Job]:
    train = str(args.data / "train.tsv")
    unit = ["--kind", "sentencepiece", "--size", str(args.pieces)] if args.pieces else []
    jobs = [Job("vocab", ["colld", "vocab", "--manifest", train, *unit, "--out", str(args.out / "vocab")])]
    if not args.student:
        jobs.append(recipes.cmvn_job("cmvn", args.data / "train.tsv", args.out / "cmvn.npz"))
    common = [job.name for job in jobs]
    for seed in args.seeds:
        for system in systems(args):
            run = f"{system}/seed{seed}"
            jobs.append(training_job(args.out, f"{run}/train", configuration(args, system, int(seed)), common))
            jobs += evaluation_jobs(args, run)
    return jobs


def configuration(args: Args, system: str, seed: int) -> Config:
    """Of student.yaml, what differs between the systems and what the command line says."""
    filled: Dict[str, Any] = {
        "task": {"data": str(args.data), "vocab": str(args.out / "vocab")},
        "dataset": {"valid_subset": "dev"},
        "model": {"student": str(args.student or "")},
        "criterion": {"ctc_kd": {"plain": "none"}.get(system, system), "ctc_kd_delay": args.delay},
    }
    if system == "teacher":
        filled["task"]["teacher_ctc"] = str(args.teacher_ctc)
    if not args.student:
        filled["task"]["cmvn"] = str(args.out / "cmvn.npz")
        filled["model"].update(Shape.parse(args.shape).options() if args.shape else {})
    size = recipes.sized(args.out / f"{system}/seed{seed}/train", seed, args.updates, args.lr, args.max_tokens)
    recipe, more = read_yaml(HERE / "student.yaml"), recipes.parse_settings(args.settings)
    return override(recipe, read_yaml(SMALL), filled, size, more)


def evaluation_jobs(args: Args, run: str) -> List[Job]:
    checkpoint, after = args.out / run / "train" / "checkpoint_best.pt", [f"{run}/train"]
    jobs: List[Job] = []
    for latency in LATENCIES:
        options = ["--beam", "1", "--max-tokens", str(4 * args.max_tokens), "--decoding-chunk-ms", latency]
        options += ["--post-process", "sentencepiece" if args.pieces else "letter"]
        jobs += recipes.decoding_jobs(args.out, f"{run}/{latency}", args.data, "test", checkpoint, options, after)
    delay = ["colld", "delay", str(checkpoint), "--manifest", str(args.data / "test.tsv")]
    delay += ["--chunk-ms", ",".join(LATENCIES), "--json", str(args.out / run / "delay.json")]
    return [*jobs, Job(f"{run}/delay", delay, after)]


def write_table(args: Args) -> str:
    """Markdown: a row for each system, seed and latency."""
    lines = [
        "| learned from | seed | chunk (ms) | WER | CER | CER above the whole | later (ms) | 90 % |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for seed in args.seeds:
        for system in systems(args):
            folder = args.out / f"{system}/seed{seed}"
            delays = {str(row["chunk_ms"]): row for row in json.loads((folder / "delay.json").read_text())["delays"]}
            whole = score(folder, "full", "cer")
            for latency in LATENCIES:
                cer, delay = score(folder, latency, "cer"), delays[latency]
                above = f"{100 * (cer / whole - 1):+.1f} %" if whole else "-"
                figures = [f"{score(folder, latency, 'wer'):.2f}", f"{cer:.2f}", above]
                figures += [written(delay[name]) for name in ("shift_ms", "shift_90_ms")]
                lines.append("| " + " | ".join([LABELS[system], seed, latency, *figures]) + " |")
    return "\n".join(lines) + "\n"


def score(folder: Path, latency: str, name: str) -> float:
    """Percent, of all utterances."""
    return json.loads((folder / f"{latency}.json").read_text())["overall"][name]


def written(milliseconds: Optional[float]) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.0f}"


def arguments(argv: List[str]) -> Args:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("out", type=resolved)
    manifests = recipes.folder_with("train", "dev", "test")
    add("--data", type=manifests, required=True, help="folder with train.tsv, dev.tsv and test.tsv")
    add("--student", type=recipes.file, help="distilled with --encoder-context chunk (default: from scratch)")
    add(
        "--teacher-ctc",
        type=recipes.file,
        help="a model with full context, a CTC layer and the vocabulary in OUT/vocab",
    )
    add("--pieces", type=int, default=0, help="sentencepiece units of the vocabulary (default: letters)")
    add("--shape", metavar="LAYERSxWIDTH/FFN/HEADS", help="from scratch: in place of the 10 M preset's")
    add("--delay", type=int, default=4, help="frames by which the student may be later (default: %(default)s)")
    add("--updates", type=int, default=6000, help="default: %(default)s")
    add("--lr", type=float, default=1e-3, help="default: %(default)s")
    recipes.run_options(add)
    add("--settings", nargs="*", default=[], metavar="GROUP.NAME=VALUE", help="of every training: common.bf16=true")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
