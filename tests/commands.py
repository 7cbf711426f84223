"""fairseq's commands in tests: in this process (fast) or in one of their own (isolated)."""

import contextlib
import importlib
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple

from fairseq import checkpoint_utils
from fairseq.logging import progress_bar

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "colld_fairseq"

TINY_ENCODER = [
    *["--encoder-layers", "2", "--encoder-embed-dim", "32", "--encoder-ffn-embed-dim", "48"],
    *["--encoder-attention-heads", "2", "--fbank-stack", "2"],
]
TRAINING = [
    *["--user-dir", str(PACKAGE), "--optimizer", "adam", "--lr", "0.002", "--lr-scheduler", "fixed"],
    *[
        "--max-tokens",
        "60000",
        "--num-workers",
        "0",
        "--seed",
        "1",
        "--log-format",
        "json",
        "--log-interval",
        "1",
    ],
    *["--no-progress-bar", "--no-epoch-checkpoints"],
]


class Run(NamedTuple):
    """What a command left behind: exit code, standard output and error together."""

    code: int
    output: str

    @property
    def last_line(self) -> str:
        return self.output.strip().splitlines()[-1]


def environment(**extra: str) -> Dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **extra}


def binary(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def spawn(name: str, *args, cwd=REPOSITORY, timeout: float = 120, check: bool = True, input: str = "", **env) -> Run:
    """Run an installed command (fairseq-train, colld, ...) in a process of its own."""
    done = subprocess.run(
        [binary(name), *map(str, args)],
        cwd=cwd,
        env=environment(**env),
        timeout=timeout,
        input=input,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    run = Run(done.returncode, done.stdout)
    assert not check or run.code == 0, run.output[-3000:]
    return run


def call(name: str, *args) -> str:
    """Run fairseq's `train`, `generate` or `validate` in this process; returns what it logged and printed."""
    module = importlib.import_module(f"fairseq_cli.{name}")
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    before = sys.argv
    vars(checkpoint_utils.save_checkpoint).pop("best", None)  # fairseq keeps the best score in a global
    sys.argv = [f"fairseq-{name}", *map(str, args)]
    try:
        with contextlib.redirect_stdout(output):
            module.cli_main()
    finally:
        sys.argv = before
        root.removeHandler(handler)
        root.setLevel(level)
        close_event_files()
    return output.getvalue()


def close_event_files() -> None:
    """What a process does at its end: TensorBoard's files are complete then, and the next training has its own."""
    progress_bar._close_writers()
    progress_bar._tensorboard_writers.clear()


def log_records(output: str, kind: str) -> List[Dict]:
    """The JSON lines of a training log; kind: "train_inner" (one an update), "train" (epochs), "valid" or "test"."""
    key = {"train_inner": "loss"}.get(kind, f"{kind}_loss")
    records = [json.loads(line[line.index("{") :]) for line in output.splitlines() if f'"{key}"' in line]
    return [record for record in records if key in record]


def losses(output: str) -> List[str]:
    """The loss of every update, as text: bit for bit as far as it is printed."""
    return [record["loss"] for record in log_records(output, "train_inner")]
