"""A comparison: its jobs are run, and a plan left beside them says where every figure of its report lies."""

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from colld_fairseq.files import write_atomically
from examples.driver.jobs import Job, at_a_time, run_jobs
from examples.driver.report import write_report


@dataclass
class Result:
    """One system, trained with one seed and decoded in one way. Paths are relative to the output folder.

    group: results of one group are compared with each other: the same test set, labels and way of decoding.
    scores: files of `colld score --json`.
    logs: stage -> output of fairseq-train.
    checkpoint: of the whole model.
    """

    system: str
    label: str
    seed: int
    group: str
    scores: List[str]
    logs: Dict[str, str]
    checkpoint: str


@dataclass
class Plan:
    """What is compared; left in OUT/plan.json.

    comparisons: [question, system, [baselines]]; of several baselines the best counts.
    encoders: name -> checkpoint (relative) or spec of what OUT/profile.json measures; None = nothing is profiled.
    average: of headline scores, "mean" (every language alike) or "all" (every utterance alike).
    notes: paragraphs above the tables.
    settings: of the command line, for the record.
    show: whether the report ends with an utterance of each test set as every system writes it.
    """

    title: str
    results: List[Result]
    comparisons: List[List[Any]]
    encoders: Optional[Dict[str, str]]
    average: str = "mean"
    notes: List[str] = field(default_factory=list)
    settings: Dict[str, Any] = field(default_factory=dict)
    show: bool = False


def profile_job(plan: Plan, out: Path, jobs: Sequence[Job]) -> Job:
    """Size and speed of the encoders, when nothing else runs."""
    checkpoints = [str(out / name) for name in plan.encoders.values() if (":" not in name)]
    specs = [name for name in plan.encoders.values() if ":" in name]
    students = ["--student", *checkpoints] if checkpoints else []
    command = ["colld", "profile", *students, "--teacher", *specs, "--batch-sizes", "1"]
    return Job("profile", [*command, "--json", str(out / "profile.json")], [job.name for job in jobs])


def write_plan(out: Path, plan: Plan) -> None:
    content = json.dumps(asdict(plan), indent=1, ensure_ascii=False, default=str)
    write_atomically(out / "plan.json", content.encode())


def run_comparison(out: Path, jobs: List[Job], plan: Plan, parallel: Optional[int]) -> None:
    """Run the jobs, `parallel` at a time (None: `at_a_time`), and the profile, then make the report; exits with the
    report's code."""
    started = time.time()
    all_jobs = [*jobs, profile_job(plan, out, jobs)]
    write_plan(out, plan)
    run_jobs(out, all_jobs, at_a_time(parallel))
    print(f"all jobs took {(time.time() - started) / 60:.1f} minutes")
    sys.exit(write_report(out))
