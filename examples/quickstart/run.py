"""The quickstart: distil a real teacher, fine-tune, translate, compare. `make quickstart`, or: python run.py [OUT]

Two lanes of jobs run side by side, each with half of the cores; every job is a command line that you can run yourself
(they are printed into OUT/commands.sh). A finished job is not run again, a killed one goes on from its checkpoint.

    lane 1   teacher features -> distil colld -> fine-tune colld -> decode
    lane 2   fine-tune scratch -> distil l1cos (needs the features) -> fine-tune l1cos -> decode
"""
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TEACHER = f"hf:{HERE / 'teacher'}"
LAYERS = "2,4,6"
SEED = 1

# The student: 25 Hz Conformer. The same for every arm.
SHAPE = [
    "--encoder-preset", "tiny", "--encoder-layers", "6", "--encoder-embed-dim", "144",
    "--encoder-ffn-embed-dim", "576", "--encoder-attention-heads", "4",
]  # fmt: skip
TRAINING = [
    "--keep-in-memory", "--max-tokens", "224000", "--num-workers", "0", "--seed", str(SEED),
    "--optimizer", "adam", "--adam-betas", "(0.9,0.98)", "--weight-decay", "0.01", "--clip-norm", "5",
    "--lr-scheduler", "tri_stage", "--phase-ratio", "[0.1,0.4,0.5]", "--final-lr-scale", "0.02",
    "--no-epoch-checkpoints", "--log-format", "json", "--log-interval", "25",
]  # fmt: skip
DISTIL_UPDATES, FINETUNE_UPDATES = 1800, 1400
DISTIL = {
    "colld": ["--criterion", "colld", "--num-negatives", "0", "--l1-weight", "1", "--log-sigmoid-cosine-weight", "1"],
    "l1cos": ["--criterion", "feature_regression", "--l1-weight", "1", "--log-sigmoid-cosine-weight", "1"],
}
MASKS = {"colld": ["--mask-prob", "0.4", "--mask-length", "5"], "l1cos": ["--mask-prob", "0"]}
ARMS = ("colld", "l1cos", "scratch")


@dataclass
class Job:
    """One command; `updates` is the length of a training run, for the progress bar."""

    name: str
    command: List[str]
    updates: Optional[int] = None
    needs: Optional[str] = None


class Lanes:
    """Runs lists of jobs side by side, shows their progress, stops everything at the first failure."""

    def __init__(self, out: Path, threads: int) -> None:
        self.out = out
        self.environment = dict(os.environ, OMP_NUM_THREADS=str(threads), PYTHONUNBUFFERED="1")
        self.progress = Progress(
            SpinnerColumn(), TextColumn("{task.description:22}"), BarColumn(), TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        self.failed: List[str] = []
        self.done = threading.Condition()
        self.seconds: Dict[str, float] = {}

    def run(self, *lanes: List[Job]) -> None:
        with self.progress:
            threads = [threading.Thread(target=self.run_lane, args=(lane,), daemon=True) for lane in lanes]
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():  # a plain join would keep Ctrl-C waiting
                    thread.join(0.5)
        if self.failed:
            sys.exit("quickstart: " + "; ".join(self.failed))

    def run_lane(self, lane: List[Job]) -> None:
        for job in lane:
            if job.needs:
                with self.done:
                    self.done.wait_for(lambda: self.finished(job.needs) or self.failed)
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
            process = subprocess.Popen(job.command, cwd=ROOT, env=self.environment, stdout=handle, stderr=handle)
            while process.poll() is None:
                time.sleep(1)
                self.show(bar, log, job)
                if self.failed:
                    process.terminate()
                    return
        with self.done:
            if process.returncode:
                self.failed.append(f"{job.name} failed, see {log}:\n{tail(log)}")
            else:
                self.seconds[job.name] = time.time() - start
                write_json(self.out / f"{job.name}.done", {"seconds": self.seconds[job.name]})
                self.progress.update(bar, total=1, completed=1, note="done")
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


def tail(path: Path, size: int = 1500) -> str:
    with open(path, "rb") as handle:
        handle.seek(max(0, path.stat().st_size - size))
        return handle.read().decode("utf-8", errors="replace")


def write_json(path: Path, value) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(partial, path)


def jobs(out: Path) -> Dict[str, Job]:
    """Every job by its name; names are also the logs' paths below OUT."""
    data = out / "data"
    train = ["fairseq-train", str(data), "--user-dir", "colld_fairseq"]
    made = [
        Job("prepare", [sys.executable, str(HERE / "prepare.py"), str(data)]),
        Job("vocab", ["colld", "vocab", "--manifest", str(data / "train_asr.tsv"), "--lowercase",
                      "--remove-punctuation", "--out", str(data)]),
        Job("features", ["colld", "features", "--manifest", f"{data / 'train_asr.tsv'},{data / 'dev_asr.tsv'}",
                         "--teacher", TEACHER, "--layers", LAYERS, "--out", str(out / "features")]),
    ]  # fmt: skip
    for arm in ("colld", "l1cos"):
        command = train + [
            "--task", "speech_distillation", "--train-subset", "train_asr", "--valid-subset", "dev_asr",
            "--teacher", TEACHER, "--teacher-cache", str(out / "features"), "--arch", "colld_student_tiny",
            "--layer-map", "2:2,4:4,6:6", "--lr", "2e-3", "--max-update", str(DISTIL_UPDATES),
            "--validate-interval", "3", "--save-dir", str(out / arm / "distil"),
        ]  # fmt: skip
        command += DISTIL[arm] + MASKS[arm] + SHAPE + TRAINING
        made.append(Job(f"{arm}/distil", command, DISTIL_UPDATES, needs="features"))
    for arm in ARMS:
        command = train + [
            "--task", "multilingual_speech_to_text", "--train-subset", "train", "--valid-subset", "dev",
            "--ctc-target", "src_text", "--arch", "student_s2t_tiny", "--criterion", "ctc_attention", "--ctc-weight", "0.5",
            "--decoder-layers", "2", "--decoder-embed-dim", "144", "--decoder-ffn-embed-dim", "576",
            "--time-masks", "2", "--time-mask-width", "20", "--lr", "2e-3", "--max-update", str(FINETUNE_UPDATES),
            "--best-checkpoint-metric", "ctc_cer", "--validate-interval", "1", "--save-dir", str(out / arm / "finetune"),
        ]  # fmt: skip
        if arm != "scratch":
            command += ["--student", str(out / arm / "distil" / "checkpoint_last.pt")]
        made.append(Job(f"{arm}/finetune", command + SHAPE + TRAINING, FINETUNE_UPDATES))
        made += decoding_jobs(out, arm)
    return {job.name: job for job in made}


def decoding_jobs(out: Path, arm: str) -> List[Job]:
    """fairseq-generate on the test prompts by CTC (recognition) and attention (translation), then colld score."""
    data, made = out / "data", []
    for name, decoder, beam in (("asr", "ctc", "1"), ("st", "attention", "5")):
        results = out / arm / name
        generate = [
            "fairseq-generate", str(data), "--user-dir", "colld_fairseq", "--task", "multilingual_speech_to_text",
            "--path", str(out / arm / "finetune" / "checkpoint_best.pt"), "--gen-subset", f"test_{name}",
            "--decoder", decoder, "--beam", beam, "--max-len-a", "0.2", "--max-len-b", "10", "--post-process", "letter",
            "--max-tokens", "480000", "--num-workers", "0", "--results-path", str(results),
        ]  # fmt: skip
        score = ["colld", "score", "--generate-output", str(results / f"generate-test_{name}.txt"), "--manifest",
                 str(data / f"test_{name}.tsv"), "--json", str(out / arm / f"{name}.json")]  # fmt: skip
        made += [Job(f"{arm}/generate_{name}", generate), Job(f"{arm}/score_{name}", score)]
    return made


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    started = time.time()
    all_jobs = jobs(out)
    (out / "commands.sh").write_text("\n".join(shlex.join(job.command) for job in all_jobs.values()) + "\n")
    decoding = {arm: [job.name for job in decoding_jobs(out, arm)] for arm in ARMS}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lanes = Lanes(out, max(1, cores // 2))

    def pick(*names: str) -> List[Job]:
        return [all_jobs[name] for name in names]

    lanes.run(pick("prepare", "vocab"))
    lanes.run(
        pick("features", "colld/distil", "colld/finetune", *decoding["colld"]),
        pick("scratch/finetune", *decoding["scratch"], "l1cos/distil", "l1cos/finetune", *decoding["l1cos"]),
    )
    profile = ["colld", "profile", "--student", str(out / "colld" / "finetune" / "checkpoint_best.pt"),
               "--teacher", TEACHER, "--json", str(out / "profile.json")]  # fmt: skip
    lanes.run([Job("profile", profile)])
    print(f"trained and decoded in {(time.time() - started) / 60:.1f} minutes")
    subprocess.run([sys.executable, str(HERE / "report.py"), str(out)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "runs" / "quickstart").resolve())
