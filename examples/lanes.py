"""Command lines side by side, for the drivers of the examples: recorded, logged, resumed; an error stops all."""

import collections
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Deque, Dict, Iterable, List, Optional, Sequence

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from colld_fairseq.files import write_whole

ROOT = Path(__file__).resolve().parents[1]

# What every training run of the examples has in common. On several GPUs torch's own backend stops where a parameter has
# no gradient, as those of a frozen encoder; --find-unused-parameters does not suit every criterion.
TRAINING = [
    "--ddp-backend", "legacy_ddp",
    "--keep-in-memory", "--num-workers", "0",
    "--optimizer", "adam", "--adam-betas", "(0.9,0.98)", "--weight-decay", "0.01", "--clip-norm", "5",
    "--lr-scheduler", "tri_stage", "--phase-ratio", "[0.1,0.4,0.5]", "--final-lr-scale", "0.02",
    "--no-epoch-checkpoints", "--log-format", "json", "--log-interval", "25",
]  # fmt: skip


@dataclass
class Job:
    """One command; `updates` is the length of a training run, for the progress bar.

    The name is also the path of its log and of the note that it is finished, below the lanes' folder. `needs` are names
    of jobs that must be finished first.
    """

    name: str
    command: List[str]
    updates: Optional[int] = None
    needs: Sequence[str] = ()


class Lanes:
    """Runs chains of jobs side by side, shows their progress, stops everything at the first failure."""

    def __init__(self, out: Path, threads: int) -> None:
        self.out = out
        # colld and fairseq-* of the environment that this Python belongs to, activated or not.
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
        self.environment = dict(os.environ, OMP_NUM_THREADS=str(threads), PYTHONUNBUFFERED="1", PATH=path)
        self.failed: List[str] = []
        self.done = threading.Condition()
        self.running: List[subprocess.Popen] = []

    def run(self, *chains: List[Job], lanes: Optional[int] = None) -> None:
        """Every chain in its order, `lanes` of them at a time (default: all), earlier chains first.

        A job that another one needs must be finished already, or be in an earlier chain.
        """
        waiting = collections.deque(chains)
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:22}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same command goes on"))
        threads = [
            threading.Thread(target=self.run_lane, args=(waiting,), daemon=True) for _ in range(lanes or len(chains))
        ]
        try:
            with self.progress:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    while thread.is_alive():  # a plain join would keep Ctrl-C waiting
                        thread.join(0.5)
        finally:
            for process in self.running:  # none, unless we were stopped
                process.terminate()
        if self.failed:
            sys.exit("; ".join(self.failed))

    def run_lane(self, waiting: Deque[List[Job]]) -> None:
        while True:
            try:
                chain = waiting.popleft()
            except IndexError:
                return
            for job in chain:
                if job.needs:
                    with self.done:
                        self.done.wait_for(lambda: all(map(self.finished, job.needs)) or self.failed)
                if self.failed:
                    return
                self.run_job(job)

    def finished(self, name: str) -> bool:
        return (self.out / f"{name}.done").is_file()

    def run_job(self, job: Job) -> None:
        if self.finished(job.name):
            return
        log = self.out / f"{job.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        bar = self.progress.add_task(job.name, total=job.updates, note="")
        start = time.time()
        with open(log, "a", encoding="utf-8") as handle:
            try:
                process = subprocess.Popen(job.command, cwd=ROOT, env=self.environment, stdout=handle, stderr=handle)
            except OSError as error:  # not there, or not executable
                self.fail(f"{job.name}: {job.command[0]} cannot be started ({error.strerror}); see `colld doctor`")
                return
            self.running.append(process)
            while process.poll() is None:
                time.sleep(1)
                self.show(bar, log, job)
                if self.failed:
                    process.terminate()
                    return
            self.running.remove(process)
        seconds = time.time() - start
        if process.returncode:
            self.fail(f"{job.name} failed, see {log}:\n{tail(log)}")
            return
        with self.done:
            write_json(self.out / f"{job.name}.done", {"seconds": seconds})
            self.done.notify_all()
        self.progress.remove_task(bar)  # a long list of finished bars would push the others off the screen
        self.progress.console.print(f"{job.name}: {seconds / 60:.1f} min", highlight=False)

    def fail(self, reason: str) -> None:
        """Stops all lanes."""
        with self.done:
            self.failed.append(reason)
            self.done.notify_all()

    def show(self, bar, log: Path, job: Job) -> None:
        text = tail(log, 3000)
        if job.updates is None:
            self.progress.update(bar, note=text.replace("\r", "\n").strip().split("\n")[-1][:60])
            return
        updates = re.findall(r'"num_updates": "(\d+)"', text)
        speed = re.findall(r'"audio_x": "([\d.]+)"', text)
        if updates:
            note = f"{updates[-1]}/{job.updates} updates" + (f", {speed[-1]} s of audio a second" if speed else "")
            self.progress.update(bar, completed=int(updates[-1]), note=note)


def training_options(save_dir: Path, seed: str, updates: int, lr: str, max_tokens: int) -> List[str]:
    """TRAINING and the size of a run. Ten validations and checkpoints by updates: epochs of 10 and of 60 minutes of
    labels are not alike."""
    every = max(1, math.ceil(updates / 10))
    return TRAINING + [
        "--max-tokens", str(max_tokens), "--max-tokens-valid", str(4 * max_tokens),
        "--seed", seed, "--max-update", str(updates), "--lr", lr, "--save-dir", str(save_dir),
        "--save-interval", "100000", "--validate-interval", "100000", "--save-interval-updates", str(every),
        "--keep-interval-updates", "1",
    ]  # fmt: skip


def record(out: Path, jobs: Iterable[Job], settings: Dict) -> None:
    """Leave in `out` what is going to be run: commands.sh and settings.json."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "commands.sh").write_text("\n".join(shlex.join(job.command) for job in jobs) + "\n", encoding="utf-8")
    write_json(out / "settings.json", settings)


def tail(path: Path, size: int = 1500) -> str:
    with open(path, "rb") as handle:
        handle.seek(max(0, path.stat().st_size - size))
        return handle.read().decode("utf-8", errors="replace")


def write_json(path: Path, value) -> None:
    write_whole(path, json.dumps(value, indent=1).encode())


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
