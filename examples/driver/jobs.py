"""Jobs: command lines that wait for each other, several at a time; logged, resumed, stopped by the first failure."""

import contextlib
import fcntl
import json
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
from typing import IO, Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

import torch
from omegaconf import OmegaConf
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import colld_fairseq
from colld_fairseq.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
# fairseq's option; as in the recipes where these are the clone's, and not those that a wheel carries.
USER_DIR = "colld_fairseq" if (ROOT / "colld_fairseq").is_dir() else str(Path(colld_fairseq.__file__).resolve().parent)
WATCH_SECONDS = 10.0  # between two looks of `watch` at a job


@dataclass(frozen=True)
class Job:
    """One command, run in the root of the clone.

    name: unique; below the output folder NAME.log is its output, NAME.done the note that it is finished, NAME.failed
        that it is not and why, NAME.stopped that it was stopped for good and why, NAME.spent what an unfinished one has
        cost so far, and NAME.yaml its `config`, if it has one.
    needs: names of the jobs that must be finished first.
    updates: length of a training run, for the progress bar.
    """

    name: str
    command: List[str]
    needs: Sequence[str] = ()
    updates: Optional[int] = None
    config: Optional[Dict[str, Any]] = None


# (output folder, a running job) -> why it is to be stopped for good, or None.
Watch = Callable[[Path, Job], Optional[str]]


class _Running(NamedTuple):
    job: Job
    process: subprocess.Popen
    log: IO
    started: float
    bar: Any


def run_jobs(
    out: Path, jobs: Sequence[Job], parallel: int, watch: Optional[Watch] = None, deadline: Optional[float] = None
) -> bool:
    """Run what is not finished yet, `parallel` jobs at a time, each with its share of the cores; of those that may
    start, the earlier in the list first. Leaves `commands.sh` in `out`. Exits with the log's end at the first job that
    fails, after stopping the others; the same call goes on where it was. Exits before anything runs where a job was
    finished with another command or configuration.

    watch: looks at running jobs every few seconds; what it calls hopeless is stopped for good, and what needs it is
    left out. deadline: a time.time() at which everything is stopped, to go on with the same call. Returns False where
    that time came, else True.
    """
    known = {job.name for job in jobs}
    for job in jobs:
        assert known.issuperset(job.needs), f"{job.name} needs {sorted(set(job.needs) - known)}, which no job makes"
    _check_finished(out, jobs)
    for job in jobs:
        if job.config is not None:
            write_atomically(out / f"{job.name}.yaml", OmegaConf.to_yaml(job.config).encode())
    write_atomically(out / "commands.sh", "".join(shlex.join(job.command) + "\n" for job in jobs).encode())
    with _jobs_stopped_by_sigterm():
        return _run(out, jobs, parallel, watch, deadline)


@contextlib.contextmanager
def _jobs_stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM is an exit, which takes the jobs along; afterwards it is what it was."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same command goes on"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(out: Path, jobs: Sequence[Job], parallel: int, watch: Optional[Watch], deadline: Optional[float]) -> bool:
    """The loop of `run_jobs`."""
    threads = max(1, usable_cores() // parallel)
    running: List[_Running] = []
    with _progress() as progress:
        try:
            waiting = [job for job in jobs if not (finished(out, job.name) or stopped(out, job.name))]
            looked = time.time()
            while waiting or running:
                if deadline is not None and time.time() >= deadline:
                    return False
                for one in list(running):
                    spent = _core_seconds(one.process)
                    if spent is not None:
                        running.remove(one)
                        _finish(out, one, spent, progress)
                if watch is not None and time.time() - looked >= WATCH_SECONDS:
                    looked = time.time()
                    for one in list(running):
                        reason = watch(out, one.job)
                        if reason is not None:
                            running.remove(one)
                            _stop(out, one, reason, progress)
                waiting = _possible(out, waiting)
                for job in list(waiting):
                    if len(running) < parallel and all(finished(out, need) for need in job.needs):
                        waiting.remove(job)
                        running.append(_start(out, job, threads, progress))
                assert running or not waiting, f"{waiting[0].name} waits for itself"
                time.sleep(0.1)
                for one in running:
                    _show(out, one, progress)
        finally:
            for one in running:  # none, unless we were stopped
                one.process.terminate()
            for one in running:
                _write_spent(out, one, _core_seconds(one.process, wait=True))
                one.log.close()
    return True


def finished(out: Path, name: str) -> bool:
    return (out / f"{name}.done").is_file()


def stopped(out: Path, name: str) -> bool:
    """For good: by `watch`."""
    return (out / f"{name}.stopped").is_file()


def spent(out: Path, name: str) -> Dict[str, float]:
    """What a job has cost, all its starts together: `seconds` of wall clock, `core_seconds` of processor time."""
    for ending in ("done", "stopped", "spent"):
        path = out / f"{name}.{ending}"
        if path.is_file():
            note = json.loads(path.read_text())
            return {"seconds": note["seconds"], "core_seconds": note.get("core_seconds", 0.0)}
    return {"seconds": 0.0, "core_seconds": 0.0}


def failures(out: Path) -> List[str]:
    """A line for each job that failed when it was run last."""
    notes = {path: json.loads(path.read_text()) for path in sorted(out.rglob("*.failed"))}
    return [f"{path.with_suffix('.log')}: the job failed with exit code {note['code']}" for path, note in notes.items()]


def at_a_time(given: Optional[int] = None) -> int:
    """How many jobs run side by side: as given, or one a core, or with a GPU one (a training run uses all of them)."""
    return given or (1 if torch.cuda.is_available() else usable_cores())


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _content(out: Path, job: Job) -> Any:
    """What a job does, wherever `out` lies."""
    return json.loads(json.dumps([job.command, job.config]).replace(str(out), "OUT"))


def _check_finished(out: Path, jobs: Sequence[Job]) -> None:
    for job in jobs:
        for ending in ("done", "stopped"):
            note = out / f"{job.name}.{ending}"
            content = json.loads(note.read_text()).get("content") if note.is_file() else None
            if content is not None and content != _content(out, job):
                sys.exit(
                    f"{job.name} was finished with other options in {out}: give the same ones, choose another folder,"
                    f" or delete {note} (and what it wrote) to run it again"
                )


def _possible(out: Path, waiting: Sequence[Job]) -> List[Job]:
    """Those that wait neither for a stopped job nor for one that does."""
    lost = {need for job in waiting for need in job.needs if stopped(out, need)}
    while True:
        more = {job.name for job in waiting if lost.intersection(job.needs)} - lost
        if not more:
            return [job for job in waiting if job.name not in lost]
        lost |= more


def _start(out: Path, job: Job, threads: int, progress: Progress) -> _Running:
    (out / job.name).parent.mkdir(parents=True, exist_ok=True)
    (out / f"{job.name}.failed").unlink(missing_ok=True)
    # colld and fairseq-* of the environment that this Python belongs to, activated or not.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), PYTHONUNBUFFERED="1", PATH=path)
    log = open(out / f"{job.name}.log", "a", encoding="utf-8")
    _lock(log, job)
    try:
        process = subprocess.Popen(job.command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    except OSError as error:  # not there, or not executable
        sys.exit(f"{job.name}: {job.command[0]} cannot be started ({error.strerror}); see `colld doctor`")
    return _Running(job, process, log, time.time(), progress.add_task(job.name, total=job.updates, note=""))


def _lock(log: IO, job: Job) -> None:
    """Exits where the job of an earlier start still runs, which was killed without it: both would write the same files.
    The lock is the kernel's, on the log, which the job holds open for as long as it runs."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        command = shlex.join(job.command)
        sys.exit(f"{job.name}: still runs from an earlier start; wait for it, or end that process: {command}")
    except OSError:
        pass  # a file system without locks


def _finish(out: Path, one: _Running, core_seconds: float, progress: Progress) -> None:
    one.log.close()
    name, seconds, code = one.job.name, time.time() - one.started, one.process.returncode
    if code:
        _write_spent(out, one, core_seconds)
        write_atomically(out / f"{name}.failed", json.dumps({"seconds": seconds, "code": code}).encode())
        sys.exit(f"{name} failed, see {out / name}.log:\n{_tail(out / f'{name}.log')}")
    note = {**_all_spent(out, one, core_seconds), "content": _content(out, one.job)}
    write_atomically(out / f"{name}.done", json.dumps(note, indent=1).encode())
    (out / f"{name}.spent").unlink(missing_ok=True)
    progress.remove_task(one.bar)  # a long list of finished bars would push the others off the screen
    progress.console.print(f"{name}: {seconds / 60:.1f} min", highlight=False)


def _stop(out: Path, one: _Running, reason: str, progress: Progress) -> None:
    """For good; what needs it is left out."""
    one.process.terminate()
    core_seconds = _core_seconds(one.process, wait=True)
    one.log.write(f"\nstopped: {reason}\n")
    one.log.close()
    note = {"reason": reason, **_all_spent(out, one, core_seconds), "content": _content(out, one.job)}
    write_atomically(out / f"{one.job.name}.stopped", json.dumps(note, indent=1).encode())
    (out / f"{one.job.name}.spent").unlink(missing_ok=True)
    progress.remove_task(one.bar)
    progress.console.print(f"{one.job.name}: stopped, {reason}", highlight=False)


def _core_seconds(process: subprocess.Popen, wait: bool = False) -> Optional[float]:
    """Processor time of a process that has ended, that of its own processes included; None where it still runs."""
    pid, status, usage = os.wait4(process.pid, 0 if wait else os.WNOHANG)
    if not pid:
        return None
    process.returncode = os.waitstatus_to_exitcode(status)  # Popen itself would throw the usage away
    return usage.ru_utime + usage.ru_stime


def _all_spent(out: Path, one: _Running, core_seconds: float) -> Dict[str, float]:
    before = spent(out, one.job.name)
    return {
        "seconds": before["seconds"] + time.time() - one.started,
        "core_seconds": before["core_seconds"] + core_seconds,
    }


def _write_spent(out: Path, one: _Running, core_seconds: float) -> None:
    write_atomically(out / f"{one.job.name}.spent", json.dumps(_all_spent(out, one, core_seconds)).encode())


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:22}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


def _show(out: Path, one: _Running, progress: Progress) -> None:
    text = _tail(out / f"{one.job.name}.log", 3000)
    if one.job.updates is None:
        progress.update(one.bar, note=text.replace("\r", "\n").strip().split("\n")[-1][:60])
        return
    updates = re.findall(r'"num_updates": "(\d+)"', text)
    speed = re.findall(r'"audio_x": "([\d.]+)"', text)
    if updates:
        note = f"{updates[-1]}/{one.job.updates} updates" + (f", {speed[-1]} s of audio a second" if speed else "")
        progress.update(one.bar, completed=int(updates[-1]), note=note)


def _tail(path: Path, size: int = 1500) -> str:
    with open(path, "rb") as handle:
        handle.seek(max(0, path.stat().st_size - size))
        return handle.read().decode("utf-8", errors="replace")
