"""Distil a teacher twice, fine-tune both students and one from scratch, decode, compare:

    python -m examples.colld.prompts.run [OUT] [--data DIR --teacher SPEC --layers 2,4,6 ...]  (own corpus and teacher)

DIR holds the manifests that prepare.py writes: {train,dev,test}.tsv, ..._asr.tsv and ..._st.tsv. The recipes are
distil.yaml and finetune.yaml; systems.yaml says what each system changes in them. Without a GPU two jobs run at a time,
each with half of the cores. Every job is a command line that you can run yourself (OUT/commands.sh). A finished job is
not run again, a killed one resumes.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import List, NamedTuple, Sequence, Tuple

import torch

from colld_fairseq.teachers import describe_teacher
from examples.driver.jobs import ROOT, Job
from examples.driver.plan import Plan, Result, run_comparison
from examples.driver.recipes import (
    absolute_spec,
    check_layers,
    decoding_jobs,
    errors_told,
    folder_with,
    override,
    parse_settings,
    read_yaml,
    training_job,
    words,
)

HERE = Path(__file__).resolve().parent
TEACHER = ROOT / "examples" / "quickstart" / "teacher"
TABLE = read_yaml(HERE / "systems.yaml")


class Decoding(NamedTuple):
    """subset: what is decoded; group: of results that are compared with each other."""

    subset: str
    options: Sequence[str]
    group: str = "held-out prompts"


# Recognition by CTC, translation by attention; and recognition by a beam that an n-gram model of words takes part in.
DECODING = {
    "asr": Decoding("test_asr", ("--decoder", "ctc", "--beam", "1")),
    "st": Decoding("test_st", ("--decoder", "attention", "--beam", "5")),
    "asr_ngram": Decoding(
        "test_asr", ("--decoder", "ctc", "--beam", "10"), "held-out prompts, with an n-gram model of words"
    ),
}
TO_TEXT = ["--max-len-a", "0.2", "--max-len-b", "10", "--post-process", "letter", "--max-tokens", "480000"]


def make_plan(out: Path, args: argparse.Namespace) -> Tuple[List[Job], Plan]:
    check_layers("--layers", args.layers.split(","), describe_teacher(args.teacher))
    data = out / "data" if args.data is None else args.data
    audio = ",".join(str(data / f"{split}_asr.tsv") for split in ("train", "dev"))
    transcripts = f"{data / 'train_asr.tsv'},{data / 'train.tsv'}"
    jobs, needs = [], []
    if args.data is None:
        jobs.append(Job("prepare", [sys.executable, "-m", "examples.quickstart.prepare", str(data)]))
        needs = ["prepare"]
    vocab = ["colld", "vocab", "--manifest", transcripts, "--lang-tags", "--lowercase", "--remove-punctuation"]
    features = ["colld", "features", "--manifest", audio, "--teacher", args.teacher, "--layers", args.layers]
    jobs.append(Job("vocab", [*vocab, "--out", str(out / "vocab")], needs))
    ngram = ["colld", "ngram", "--vocab", str(out / "vocab"), "--manifest", str(data / "train_asr.tsv")]
    jobs.append(Job("ngram", [*ngram, "--out", str(out / "words.arpa")], ["vocab"]))
    fusion = ["--ngram-lm", str(out / "words.arpa"), "--ngram-lm-weight", str(args.ngram_weight)]
    fusion += ["--length-bonus", str(args.length_bonus)]
    jobs.append(Job("features", [*features, "--out", str(out / "features")], needs))
    tokens = {"max_tokens": args.max_tokens, "max_tokens_valid": 8 * args.max_tokens}
    common = {"common": {"seed": args.seed}, "task": {"data": str(data)}, "dataset": tokens}
    results = []
    for name in args.systems:
        system = TABLE["systems"][name]
        needs, start, logs = ["vocab"], {}, {}
        if system["distil"] is not None:
            config = override(
                read_yaml(HERE / "distil.yaml"), system["distil"], common,
                {"task": {"teacher": args.teacher, "teacher_cache": str(out / "features")},
                 "model": {"layer_map": layer_map(args.layers)},
                 "optimization": {"max_update": args.distil_updates},
                 "checkpoint": {"save_dir": str(out / name / "distil")}},
                parse_settings(args.settings),
            )  # fmt: skip
            jobs.append(training_job(out, f"{name}/distil", config, ["features"]))
            needs += [f"{name}/distil"]
            logs["distillation"] = f"{name}/distil.log"
            start = {"model": {"student": str(out / name / "distil" / "checkpoint_last.pt")}}
        if system.get("starts_from") == "teacher":
            start = {"model": {"student": args.teacher}}
        config = override(
            read_yaml(HERE / "finetune.yaml"), start, system["finetune"], common,
            {"task": {"vocab": str(out / "vocab")}, "optimization": {"max_update": args.finetune_updates},
             "checkpoint": {"save_dir": str(out / name / "finetune")}},
            parse_settings([*args.settings, *args.finetune_settings]),
        )  # fmt: skip
        jobs.append(training_job(out, f"{name}/finetune", config, needs))
        logs["fine-tuning"] = f"{name}/finetune.log"
        checkpoint = f"{name}/finetune/checkpoint_best.pt"
        scores = defaultdict(list)
        for way, (subset, options, group) in DECODING.items():
            more, needs = (fusion, ["ngram"]) if way == "asr_ngram" else ([], [])
            needs, options = [*needs, f"{name}/finetune"], [*options, *more, *TO_TEXT]
            jobs += decoding_jobs(out, f"{name}/{way}", data, subset, out / checkpoint, options, needs)
            scores[group].append(f"{name}/{way}.json")
        for group, files in scores.items():
            results.append(Result(name, system["label"], args.seed, group, files, logs, checkpoint))
    encoders = {"student": results[0].checkpoint, "teacher": args.teacher}
    return jobs, Plan(TABLE["title"], results, TABLE["comparisons"], encoders, TABLE["average"], settings=vars(args))


def layer_map(layers: str) -> str:
    """Student layers 2, 4, 6 (of 6) learn from the three given teacher layers."""
    teacher_layers = layers.split(",")
    if len(teacher_layers) != 3:
        sys.exit("--layers: give three teacher layers, such as 2,4,6")
    return ",".join(f"{student}:{teacher}" for student, teacher in zip((2, 4, 6), teacher_layers))


def systems(text: str) -> List[str]:
    chosen = words(text)
    unknown = [name for name in chosen if name not in TABLE["systems"]]
    if unknown or not chosen:
        raise argparse.ArgumentTypeError(
            f"{text!r} chooses {unknown or 'none'}; there are {', '.join(TABLE['systems'])}"
        )
    return chosen


def arguments(line: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "runs" / "prompts")
    manifests = folder_with("train", "train_asr", "dev", "dev_asr", "test_asr", "test_st")
    parser.add_argument("--data", type=manifests, help="folder of manifests (default: the prompts beside this file)")
    parser.add_argument("--teacher", default=f"hf:{TEACHER}", help="hf:DIRECTORY or fairseq:FILE.pt")
    parser.add_argument("--layers", default="2,4,6", help="three teacher layers")
    usual = ",".join(TABLE["usual"])
    parser.add_argument("--systems", type=systems, default=usual, help="of systems.yaml (default: %(default)s)")
    parser.add_argument("--ngram-weight", type=float, default=0.3, help="of the n-gram model of words, per word")
    parser.add_argument("--length-bonus", type=float, default=0.5, help="per word, beside the n-gram model")
    parser.add_argument("--distil-updates", type=int, default=1600)
    parser.add_argument("--finetune-updates", type=int, default=1600)
    parser.add_argument("--max-tokens", type=int, default=224000, help="audio of a batch, in samples at 16 kHz")
    parser.add_argument("--seed", type=int, default=1)
    setting = {"nargs": "*", "default": [], "metavar": "GROUP.NAME=VALUE"}
    parser.add_argument("--settings", **setting, help="of every training: common.bf16=true")
    parser.add_argument("--finetune-settings", **setting, help="of fine-tuning alone: model.dropout=0.1")
    args = parser.parse_args(line)
    args.out, args.teacher = args.out.resolve(), absolute_spec(args.teacher)
    return args


def main() -> None:
    args = arguments(sys.argv[1:])
    with errors_told():
        jobs, plan = make_plan(args.out, args)
    run_comparison(args.out, jobs, plan, parallel=1 if torch.cuda.is_available() else 2)


if __name__ == "__main__":
    main()
