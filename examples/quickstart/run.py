"""Whisper base cut from six encoder layers to four, distilled without a label, behind its own decoder:

    make quickstart                                  or
    colld quickstart [OUT] [--whisper DIR] [--data DIR] [--updates N] [--precision P]

DIR of --data holds the manifests that prepare.py writes: {train,dev,test}_asr.tsv and test_st.tsv. The recipe is
distil.yaml; systems.yaml says what each system changes in it. Without a GPU two jobs run at a time, each with half of
the cores. Every job is a command line that you can run yourself (OUT/commands.sh). A finished job is not run again, a
killed one resumes.
"""

import argparse
import sys
from pathlib import Path
from typing import Dict, List, Tuple

import torch

from colld_fairseq.cli import options
from colld_fairseq.devices import has_fast_bfloat16, pick_device
from examples.driver.jobs import Job
from examples.driver.plan import Plan, Result, run_comparison
from examples.driver.recipes import Config, decoding_jobs, override, read_yaml, training_job

HERE = Path(__file__).resolve().parent
TESTS = ("asr", "st")
# Of a cut encoder the decoder may run in circles: at most 10 tokens per second and 10 more, and no three of them twice.
DECODING = [
    "--beam",
    "1",
    "--max-len-a",
    "0.1",
    "--max-len-b",
    "10",
    "--no-repeat-ngram-size",
    "3",
    "--max-tokens",
    "1920000",
]
# As many as 25 minutes of two cores allow; cli/options.py says them, too.
UPDATES = {"float32": 1300, "bfloat16": 2400}
# Stages: seconds up to which prompts are joined, and the share of all updates after which the stage ends. Short windows
# cost a third of long ones, and teach nearly as much; but no position may go untrained.
STAGES = {"short": (8, 0.78), "distil": (30, 1.0)}
SCORING = ["--references", "manifest", "--lowercase", "--remove-punctuation"]


def make_plan(out: Path, args: argparse.Namespace) -> Tuple[List[Job], Plan]:
    table, recipe = read_yaml(HERE / "systems.yaml"), read_yaml(HERE / "distil.yaml")
    data = out / "data" if args.data is None else Path(args.data).resolve()
    whisper = out / "whisper-base" if args.whisper is None else Path(args.whisper).resolve()
    jobs, needs = [], []
    if args.data is None:
        prepare = [sys.executable, "-m", "examples.quickstart.prepare", str(data), "--max-seconds", "30"]
        jobs.append(Job("prepare", prepare))
        needs.append("prepare")
    if args.whisper is None:
        jobs.append(Job("whisper", [sys.executable, "-m", "examples.quickstart.whisper_base", str(whisper)]))
        needs.append("whisper")
    silence = [f"--{name}-seconds={recipe['model'][f'{name}_seconds']}" for name in ("tail", "least")]
    windows = []
    for seconds, _ in STAGES.values():
        windows.append(out / f"train_{seconds}s.tsv")
        join = ["colld", "join", "--manifest", str(data / "train_asr.tsv"), "--seconds", str(seconds)]
        needed = [name for name in needs if name == "prepare"]
        jobs.append(Job(f"windows_{seconds}s", [*join, "--out", str(windows[-1])], needed))
    features = ["colld", "features", "--manifest", ",".join(map(str, windows)), "--teacher", f"hf:{whisper}", *silence]
    features += ["--layers", teacher_layers(recipe["model"]["layer_map"]), "--dtype", args.precision]
    features += ["--out", str(out / "features")]
    jobs.append(Job("features", features, [job.name for job in jobs]))
    results = []
    for name, system in table["systems"].items():
        run, logs, student, waits = out / name, {}, f"hf:{whisper}", list(needs)
        if system["distil"] is not None:
            common = override(
                recipe, {"optimization": {"max_update": args.updates}}, system["distil"],
                {"common": {"seed": args.seed, "bf16": args.precision == "bfloat16"},
                 "checkpoint": {"save_dir": str(run / "distil")},
                 "task": {"data": str(data), "teacher": f"hf:{whisper}", "teacher_cache": str(out / "features")},
                 "model": {"init_from": f"hf:{whisper}"}},
            )  # fmt: skip
            waits = ["features"]
            stages = stages_of(common["optimization"]["max_update"])
            for stage, (manifest, updates) in stages.items():
                job = f"{name}/{stage}"
                jobs.append(training_job(out, job, with_stage(common, out / manifest, updates, bool(logs)), waits))
                waits, logs[f"distillation ({manifest})"] = [job], f"{job}.log"
            student = f"colld:{run / 'distil' / 'checkpoint_last.pt'}"
        model = run / "model.pt"
        assemble = ["colld", "assemble", "--student", student, "--decoder-from", f"hf:{whisper}"]
        assemble += [*silence, "--out", str(model)]
        jobs.append(Job(f"{name}/assemble", assemble, waits))
        for test in TESTS:
            jobs += decoding_jobs(
                out, f"{name}/{test}", data, f"test_{test}", model, DECODING, [f"{name}/assemble"], SCORING, vocab=""
            )
        scores = [f"{name}/{test}.json" for test in TESTS]
        results.append(Result(name, system["label"], args.seed, "held-out prompts", scores, logs, f"{name}/model.pt"))
    trained = {result.label: result.checkpoint for result in results if result.logs and result.system != "cut"}
    encoders = {**dict(list(trained.items())[:1]), "teacher": f"hf:{whisper}"}
    return jobs, Plan(
        table["title"], results, table["comparisons"], encoders, table["average"], settings=vars(args), show=True
    )


def stages_of(updates: int) -> Dict[str, Tuple[str, int]]:
    """Stage -> (manifest of its windows, updates after which it ends). A stage that is nothing before the last is left
    out: the cut, which learns nothing, has the last alone."""
    stages = {name: (f"train_{seconds}s", round(share * updates)) for name, (seconds, share) in STAGES.items()}
    return {name: stage for name, stage in stages.items() if stage[1] < updates or name == "distil"}


def with_stage(config: Config, manifest: Path, updates: int, resumes: bool) -> Config:
    """A stage of a run: the next one goes on from its last checkpoint, at the learning rate that it left."""
    total = config["optimization"]["max_update"]
    changes = {"optimization": {"max_update": updates}, "lr_scheduler": {"total_num_update": total}}
    dataset = {"dataset": {"train_subset": str(manifest)}, "checkpoint": {"reset_dataloader": resumes}}
    return override(config, changes, dataset)


def teacher_layers(layer_map: str) -> str:
    """The teacher's layers in a layer map S:T,S:T."""
    return ",".join(pair.partition(":")[2] for pair in layer_map.split(","))


def arguments(words: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.quickstart(parser.add_argument)
    return completed(parser.parse_args(words))


def completed(args: argparse.Namespace) -> argparse.Namespace:
    """The options of a command line with absolute paths, and what this machine decides."""
    args.out = Path(args.out).resolve()
    if args.precision == "auto":
        args.precision = "bfloat16" if has_fast_bfloat16(pick_device()) else "float32"
    args.updates = int(args.updates or UPDATES[args.precision])
    return args


def run(args: argparse.Namespace) -> None:
    """What `colld quickstart` does with `completed` options; exits with the report's code."""
    run_comparison(args.out, *make_plan(args.out, args), parallel=1 if torch.cuda.is_available() else 2)


if __name__ == "__main__":
    run(arguments(sys.argv[1:]))
