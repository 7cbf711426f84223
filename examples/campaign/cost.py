"""What a plan costs, before it starts; and the speed of each of its stages, measured with a few updates."""

import json
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from colld_fairseq.files import write_atomically
from examples.campaign.build import Builder, named, pairs
from examples.campaign.plan import Claim, Stage, System, kind_of
from examples.campaign.tune import Tuning
from examples.driver.jobs import Job, finished, run_jobs, stopped, usable_cores
from examples.driver.recipes import override, training_job

UPDATES, LOG_EVERY = 40, 10
CORES = 2  # that a cost is told for
SAMPLE = {"distillation": "sample_audio", "recognition": "sample_train"}
Rows = List[List[str]]


def core_hours(builder: Builder, names: Sequence[str], left: bool = False) -> float:
    """Of these jobs and all that they wait for; what takes little (manifests, scores) counts as nothing.

    left: of those that are not done yet.
    """
    needed = [name for name in builder.needed_by(names) if name in builder.work]
    if left:
        needed = [name for name in needed if not (finished(builder.out, name) or stopped(builder.out, name))]
    return sum(builder.work[name].core_hours for name in needed)


def claim_jobs(builder: Builder, claim: Claim) -> List[str]:
    """The last jobs of a claim: those that score."""
    names = []
    for system in claim.systems.values():
        for seed in claim.seeds:
            picked = builder.picked(claim, system)
            names += builder.decode(claim, picked, builder.system(claim, system.name, seed)).values()
    return names


def cost_rows(builder: Builder, claims: Sequence[Claim], tunings: Sequence[Tuning]) -> Tuple[List[str], Rows]:
    """Header and rows: what each claim takes alone, with its tuning, and all of them together, where what is equal is
    done once."""
    header = ["", "systems", "seeds", "training runs", "core-hours", "not done yet", f"hours of {CORES} cores"]
    rows, every = [], []
    for claim in claims:
        names = claim_jobs(builder, claim)
        names += [run.last for one in tunings if one.claim == claim.name for run in one.runs]
        every += names
        rows.append(_cost_row(builder, claim.name, str(len(claim.systems)), str(len(claim.seeds)), names))
    rows.append(_cost_row(builder, "all together", "", "", every))
    return header, rows


def _cost_row(builder: Builder, title: str, systems: str, seeds: str, names: Sequence[str]) -> List[str]:
    runs = sum(builder.jobs[name].updates is not None for name in builder.needed_by(names))
    hours, left = core_hours(builder, names), core_hours(builder, names, left=True)
    return [title, systems, seeds, str(runs), f"{hours:.1f}", f"{left:.1f}", f"{left / CORES:.1f}"]


def system_rows(builder: Builder, claim: Claim) -> Tuple[List[str], Rows]:
    """Header and rows: what one seed of each system takes to train, with all that it is made of."""
    rows = []
    for system in claim.systems.values():
        run = builder.system(claim, system.name, claim.seeds[0])
        stages = [f"{name} {builder.work[job].core_hours:.2f}" for name, job in run.stages.items()]
        hours = sum(builder.work[job].core_hours for job in run.stages.values())
        rows.append([system.name, " + ".join(stages), f"{hours:.2f}"])
    return ["system", "stages, core-hours", "together"], rows


# -- measured speed ---------------------------------------------------------------------------------------------------


def measure(builder: Builder, claims: Sequence[Claim], parallel: int) -> Dict[str, float]:
    """ "CLAIM/STAGE" -> seconds of audio per second of one core, of a few updates; kept in OUT/speeds.json."""
    measured = read_speeds(builder.out)
    jobs: Dict[str, Tuple[str, Job]] = {}
    for claim in claims:
        for system in claim.systems.values():
            for stage in system.stages:
                key = f"{claim.name}/{stage.name}"
                if key not in measured and key not in jobs:
                    jobs[key] = (key, sample_job(builder, claim, system, stage))
    names = builder.needed_by([job.name for _, job in jobs.values()])
    run_jobs(builder.out, [builder.jobs[name] for name in names], parallel)
    threads = max(1, usable_cores() // parallel)
    for key, job in jobs.values():
        measured[key] = audio_speed(builder.out / f"{job.name}.log") / threads
    write_atomically(builder.out / "speeds.json", json.dumps(measured, indent=1).encode())
    return measured


def read_speeds(out: Path) -> Dict[str, float]:
    path = out / "speeds.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def sample_job(builder: Builder, claim: Claim, system: System, stage: Stage) -> Job:
    """A few updates of a stage on a few minutes of audio, from random weights, without what must be trained first."""
    picked = builder.picked(claim, system)
    alone = replace(stage, codes="", kd_teacher="", pseudo_labels="")
    config, needs = builder.config(claim, picked, alone, claim.seeds[0], "", first=True)
    kind, folder = kind_of(config), builder.data(claim.data)
    needs = [need for need in needs if not need.startswith("features/")]
    changes: Dict[str, Any] = {
        "common": {"log_interval": LOG_EVERY},
        "dataset": {"train_subset": SAMPLE[kind], "disable_validation": True},
        "optimization": {"max_update": UPDATES},
        "checkpoint": {"no_save": True, "save_dir": str(builder.out / f"measure/{claim.name}/{stage.name}")},
    }
    if kind == "distillation":
        caches = {}
        for teacher, layers in ((name, builder.layers(claim, name)) for name in stage.teachers):
            ffn = stage.set.get("task", {}).get("teacher_kind", "layer")
            if layers:
                job = f"measure/features/{claim.data}/{teacher}_{layers.replace(',', '-')}_{ffn}"
                command = ["colld", "features", "--manifest", str(folder / "sample_audio.tsv")]
                command += ["--teacher", builder.inputs.teachers[teacher], "--layers", layers, "--kind", ffn]
                command += ["--out", str(builder.out / job)]
                needs.append(builder.add(Job(job, command, [f"data/{claim.data}"])))
                caches[teacher] = str(builder.out / job)
        cache = named(caches) if len(stage.teachers) == 1 else pairs(caches)
        changes["task"] = {"teacher_cache": cache}
        if config["model"].get("code_head", "none") != "none":
            changes["model"] = {"code_head": "none"}
    elif config["criterion"].get("kd", "none") != "none":
        changes.update(criterion={"kd": "none"}, task={"teacher_transducer": ""})
    job = training_job(builder.out, f"measure/{claim.name}/{stage.name}", override(config, changes), needs)
    builder.add(job)
    return job


def audio_speed(log: Path) -> float:
    """Seconds of audio per second, of the second half of a log."""
    speeds = [float(value) for value in re.findall(r'"audio_x": "([\d.]+)"', log.read_text(errors="replace"))]
    return statistics.fmean(speeds[len(speeds) // 2 :])
