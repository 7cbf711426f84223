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
from typing import Dict, List, NamedTuple, Tuple

import torch

from colld_fairseq.cli import options
from colld_fairseq.devices import has_fast_bfloat16, pick_device
from examples.driver.jobs import Job
from examples.driver.plan import Plan, Result, run_comparison
from examples.driver.recipes import Config, decoding_jobs, override, read_yaml, training_job

HERE = Path(__file__).resolve().parent
TESTS = ("asr", "st")
# Of a cut encoder the decoder may run in circles: at most 6 tokens per second (no training transcript has more than
# 4.8) and 10 more, and no three of them twice.
LIMITS = {"max_len_a": "0.06", "max_len_b": "10", "no_repeat_ngram_size": "3"}
DECODING = ["--beam", "1", "--max-tokens", "1920000"]
DECODING += [word for name, value in LIMITS.items() for word in (f"--{name.replace('_', '-')}", value)]
# In bfloat16 as many as 25 minutes of two cores allow, in float32 about half of that, which was not timed;
# cli/options.py says them, too.
UPDATES = {"float32": 900, "bfloat16": 1700}


class Stage(NamedTuple):
    """A part of the distillation."""

    seconds: int
    """Up to which prompts are joined."""
    share: float
    """Of all updates, after which it ends."""
    opinion: bool = False
    """Whether the frozen decoder says what it makes of the student beside what it makes of the teacher."""

    @property
    def manifest(self) -> str:
        return f"train_{self.seconds}s_teacher" if self.opinion else f"train_{self.seconds}s"


# Short windows cost a third of long ones, and teach nearly as much; but no position may go untrained. The decoder's
# opinion helps at the end; from the start it did harm.
OPINION = {"decoder_weight": 0.1, "decoder_term": "kl"}
STAGES = {"short": Stage(8, 0.8), "distil": Stage(30, 1.0, opinion=True)}
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
    for stage in STAGES.values():
        windows.append(out / f"train_{stage.seconds}s.tsv")
        join = ["colld", "join", "--manifest", str(data / "train_asr.tsv"), "--seconds", str(stage.seconds)]
        needed = [name for name in needs if name == "prepare"]
        jobs.append(Job(f"windows_{stage.seconds}s", [*join, "--out", str(windows[-1])], needed))
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
            for part, updates in stages_of(common["optimization"]["max_update"]).items():
                job, stage = f"{name}/{part}", STAGES[part]
                config = with_stage(common, stage, out, f"hf:{whisper}", updates, resumes=bool(logs))
                jobs.append(training_job(out, job, config, waits + (["transcripts"] if stage.opinion else [])))
                waits, logs[f"distillation ({stage.manifest})"] = [job], f"{job}.log"
            student = f"colld:{run / 'distil' / 'checkpoint_last.pt'}"
        model = run / "model.pt"
        assemble = ["colld", "assemble", "--student", student, "--decoder-from", f"hf:{whisper}"]
        assemble += [*silence, "--out", str(model)]
        jobs.append(Job(f"{name}/assemble", assemble, waits))
        if name == "teacher":
            jobs.append(transcripts_job(out, model, args.precision))
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


def stages_of(updates: int) -> Dict[str, int]:
    """Stage -> updates after which it ends. A stage that is nothing before the last is left out: the cut, which learns
    nothing, has the last alone."""
    ends = {name: round(stage.share * updates) for name, stage in STAGES.items()}
    return {name: end for name, end in ends.items() if end < updates or name == "distil"}


def transcripts_job(out: Path, teacher: Path, precision: str) -> Job:
    """What the teacher writes of the windows of the stage that its decoder takes part in."""
    (stage,) = (stage for stage in STAGES.values() if stage.opinion)
    command = ["colld", "transcribe", str(teacher), "--manifest", str(out / f"train_{stage.seconds}s.tsv")]
    command += ["--options", ",".join(f"{name}={value}" for name, value in LIMITS.items()), "--dtype", precision]
    command += ["--batch-seconds", "240", "--out", str(out / f"{stage.manifest}.tsv")]
    return Job("transcripts", command, ["teacher/assemble", f"windows_{stage.seconds}s"])


def with_stage(config: Config, stage: Stage, out: Path, whisper: str, updates: int, resumes: bool) -> Config:
    """A stage of a run: the next one goes on from its last checkpoint, at the learning rate that it left."""
    total = config["optimization"]["max_update"]
    changes = {"optimization": {"max_update": updates}, "lr_scheduler": {"total_num_update": total}}
    dataset = {"dataset": {"train_subset": str(out / stage.manifest)}, "checkpoint": {"reset_dataloader": resumes}}
    opinion = {"criterion": OPINION, "task": {"teacher_decoder": whisper}} if stage.opinion else {}
    return override(config, changes, dataset, opinion)


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
