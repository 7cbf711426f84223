"""Compare students of a HuBERT teacher on multilingual recognition with few labels:

    python -m examples.hubert_asr.run OUT --data DIR --teacher fairseq:hubert.pt [--label-minutes 10,60] ...

DIR holds train_asr.tsv, dev_asr.tsv and test_asr.tsv. Every system of systems.yaml is distilled once per seed (where it
is distilled), then fine-tuned with CTC on letters for each amount of labels, one model for all languages, and decoded
on test_asr.tsv. The recipes are the YAML files here; systems.yaml and ../driver/small.yaml say what is changed in them.

All systems have the same updates, batches, schedule, masks and labels. Every job is a command line that you can run
yourself (OUT/commands.sh). A finished job is not run again, a killed one resumes; `python -m examples.driver.report
OUT` makes tables of what is there.
"""

import argparse
import fnmatch
import math
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

from colld_fairseq.checkpoints.encoder import read_encoder
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.teachers.codes import load_codes
from examples.driver import recipes
from examples.driver.jobs import Job
from examples.driver.plan import Plan, Result, run_comparison
from examples.driver.recipes import SMALL, Config, Shape, manifests, override, read_yaml, resolved, training_job, words

HERE = Path(__file__).resolve().parent
TABLE = read_yaml(HERE / "systems.yaml")
SYSTEMS: Dict[str, Config] = TABLE["systems"]
Args = argparse.Namespace


def main() -> None:
    args = arguments(sys.argv[1:])
    with recipes.errors_told():
        jobs, plan = make_plan(args)
    run_comparison(args.out, jobs, plan, args.jobs)


def make_plan(args: Args) -> Tuple[List[Job], Plan]:
    teacher = read_encoder(args.teacher).config
    chosen = [name for name in SYSTEMS if any(fnmatch.fnmatch(name, pattern) for pattern in args.systems)]
    if not chosen:
        sys.exit(f"--systems {','.join(args.systems)!r} chooses none of {', '.join(SYSTEMS)}")
    if any(learns_codes(system) for system in chosen):
        load_codes(args.teacher, args.teacher_codes)  # refuses a teacher without, before anything is trained
    jobs = common_jobs(args, teacher, chosen)
    common = [job.name for job in jobs]
    results, encoders = [], {}
    for seed in args.seeds:
        for system in chosen:
            run, logs, needs = f"{system}/seed{seed}", {}, common
            if SYSTEMS[system]["distil"] is not None:
                jobs.append(distil_job(args, teacher, system, seed, common))
                logs["distillation"], needs = f"{run}/distil.log", [*common, f"{run}/distil"]
            for minutes, updates in zip(args.label_minutes, args.finetune_updates):
                jobs.append(finetune_job(args, teacher, system, seed, minutes, updates, needs))
                checkpoint = f"{run}/{minutes}min/finetune/checkpoint_best.pt"
                if not system.startswith("teacher/"):
                    encoders.setdefault(system.split("/")[0], checkpoint)
                for way, options in ways(args).items():
                    name = f"{run}/{minutes}min/{way}"
                    options = [*options, "--max-tokens", str(4 * args.max_tokens)]
                    after = [f"{run}/{minutes}min/finetune"]
                    data = args.out / "data"
                    jobs += recipes.decoding_jobs(
                        args.out, name, data, "test_asr", args.out / checkpoint, options, after
                    )
                    group = f"{minutes} minutes of labels per language, {way}"
                    log = {**logs, "fine-tuning": f"{run}/{minutes}min/finetune.log"}
                    label = SYSTEMS[system]["label"]
                    results.append(Result(system, label, int(seed), group, [f"{name}.json"], log, checkpoint))
    encoders["teacher"] = args.teacher
    return jobs, Plan(TABLE["title"], results, TABLE["comparisons"], encoders, settings=vars(args))


def learns_codes(system: str) -> bool:
    """Whether its distillation has the discriminative loss."""
    student, own = system.split("/")[0], SYSTEMS[system]["distil"]
    recipe = None if own is None else override(read_yaml(HERE / f"distil_{student}.yaml"), own)
    return recipe is not None and recipe["model"]["code_head"] != "none"


def common_jobs(args: Args, teacher: EncoderConfig, systems: List[str]) -> List[Job]:
    """What all systems need: manifests, vocabulary, statistics, the teacher's features."""
    out, data = args.out, args.out / "data"
    prepare = [
        *(sys.executable, "-m", "examples.hubert_asr.prepare", str(data), "--data", str(args.data)),
        *("--label-minutes", ",".join(args.label_minutes)),
    ]
    prepare += ["--unlabeled", args.unlabeled] if args.unlabeled else []
    # Letters of all transcripts, so that every amount of labels has the same output layer.
    vocab = ["colld", "vocab", "--manifest", str(args.data / "train_asr.tsv"), "--lowercase", "--remove-punctuation"]
    jobs = [Job("prepare", prepare), Job("vocab", [*vocab, "--out", str(out / "vocab")])]
    if any(system.startswith("deep_thin_fbank/") for system in systems):
        jobs.append(recipes.cmvn_job("cmvn", data / "train_unlabeled.tsv", data / "cmvn.npz", ["prepare"]))
    if not args.no_cache and any(SYSTEMS[system]["distil"] is not None for system in systems):
        audio = ",".join(str(data / f"{name}.tsv") for name in ("train_unlabeled", "dev_asr"))
        layers = ",".join(str(layer) for layer in range(teacher.layers + 1))
        features = ["colld", "features", "--manifest", audio, "--teacher", args.teacher, "--layers", layers]
        jobs.append(Job("features", [*features, "--out", str(out / "features")], ["prepare"]))
    return jobs


def distil_job(args: Args, teacher: EncoderConfig, system: str, seed: str, needs: List[str]) -> Job:
    student, name, updates = system.split("/")[0], f"{system}/seed{seed}/distil", args.distil_updates
    shape = student_shape(args, teacher, student)
    adaptation = updates // 10 if args.adaptation_updates is None else args.adaptation_updates
    filled = {
        "task": {
            **{"data": str(args.out / "data"), "teacher": args.teacher, "teacher_codes": args.teacher_codes},
            **{"teacher_cache": "" if args.no_cache else str(args.out / "features"), **cmvn(args, system)},
        },
        "model": {**shape_options(args, teacher, student), "layer_map": layer_map(shape, teacher, student)},
        "criterion": {"discriminative_weight": args.discriminative_weight},
    }
    if student == "shallow_wide":
        filled["model"]["init_layers"] = ",".join(str(block) for block in range(1, shape.layers + 1))
    if student == "deep_thin_fbank":
        filled["model"]["front_end_updates"] = adaptation
    size = recipes.sized(args.out / name, int(seed), updates, args.distil_lr, args.max_tokens)
    recipe = read_yaml(HERE / f"distil_{student}.yaml")
    own, more = SYSTEMS[system]["distil"], recipes.parse_settings(args.distil_settings)
    changes = (read_yaml(SMALL), TABLE["distil"], filled, own, size, more)
    return training_job(args.out, name, override(recipe, *changes), needs)


def finetune_job(
    args: Args, teacher: EncoderConfig, system: str, seed: str, minutes: str, updates: int, needs: List[str]
) -> Job:
    student, name = system.split("/")[0], f"{system}/seed{seed}/{minutes}min/finetune"
    distilled = str(args.out / f"{system}/seed{seed}" / "distil" / "checkpoint_last.pt")
    freeze = updates // 10 if args.freeze_updates is None else args.freeze_updates
    filled = {
        "task": {"data": str(args.out / "data"), "vocab": str(args.out / "vocab")},
        "dataset": {"train_subset": f"train_{minutes}min"},
        "model": {"student": args.teacher if student == "teacher" else distilled, "freeze_encoder_updates": freeze},
    }
    if system.endswith("/scratch"):
        filled["task"].update(cmvn(args, system))
        filled["model"].update(encoder_preset=student, **shape_options(args, teacher, student))
    size = recipes.sized(args.out / name, int(seed), updates, args.finetune_lr, args.max_tokens)
    own, more = SYSTEMS[system].get("finetune", {}), recipes.parse_settings(args.finetune_settings)
    changes = (read_yaml(SMALL), TABLE["finetune"], filled, own, size, more)
    return training_job(args.out, name, override(read_yaml(HERE / "finetune_1h.yaml"), *changes), needs)


def student_shape(args: Args, teacher: EncoderConfig, student: str) -> Shape:
    """As given, or in the proportions that the published students have to HuBERT Base."""
    if student == "shallow_wide":
        default = Shape(2, teacher.embed_dim, teacher.ffn_dim, teacher.attention_heads)
        return Shape.parse(args.shallow_wide) if args.shallow_wide else default
    step = math.lcm(teacher.attention_heads, teacher.conv_pos_groups)
    width = step * max(1, round(5 / 8 * teacher.embed_dim / step))
    default = Shape(teacher.layers, width, width, teacher.attention_heads)
    return Shape.parse(args.deep_thin) if args.deep_thin else default


def shape_options(args: Args, teacher: EncoderConfig, student: str) -> Config:
    """Of the model; positions and waveform convolutions are the teacher's."""
    options: Dict[str, Any] = student_shape(args, teacher, student).options()
    options.update(conv_pos=teacher.conv_pos, conv_pos_groups=teacher.conv_pos_groups)
    if student != "deep_thin_fbank":
        options["conv_feature_layers"] = str([tuple(layer) for layer in teacher.conv_layers])
    return options


def layer_map(shape: Shape, teacher: EncoderConfig, student: str) -> str:
    """Deep and thin: layer by layer. Shallow and wide: three teacher layers from the last one."""
    if student != "shallow_wide":
        return "dense"
    thirds = sorted({max(1, round(k * teacher.layers / 3)) for k in (1, 2, 3)})
    return ",".join(f"{shape.layers}:{layer}" for layer in thirds)


def cmvn(args: Args, system: str) -> Config:
    """Of the task, for a new student: one on filterbanks takes the statistics of its corpus."""
    return {"cmvn": str(args.out / "data" / "cmvn.npz")} if system.startswith("deep_thin_fbank/") else {}


def ways(args: Args) -> Dict[str, List[str]]:
    """Way of decoding -> its options: greedy and, where a language model is given, with it."""
    options = {"greedy": ["--beam", "1", "--post-process", "letter"]}
    if args.lm:
        model = ["--ngram-lm", str(args.lm), "--ngram-lm-weight", str(args.lm_weight), "--length-bonus", "1"]
        options["lm"] = ["--beam", "20", "--post-process", "letter", *model]
    return options


def arguments(argv: List[str]) -> Args:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("out", type=resolved)
    manifests_of = recipes.folder_with("train_asr", "dev_asr", "test_asr")
    add("--data", type=manifests_of, required=True, help="folder with train_asr.tsv, dev_asr.tsv, test_asr.tsv")
    add("--teacher", type=recipes.absolute_spec, required=True, help="fairseq:FILE.pt of HuBERT or hf:DIRECTORY")
    add(
        "--teacher-codes",
        type=recipes.file,
        help="file of colld cluster, for a teacher without code embeddings of its own",
    )
    add("--unlabeled", type=manifests, default="", help="to distil from, A.tsv,B.tsv (default: train_asr.tsv)")
    add("--label-minutes", type=recipes.numbers, default="10,60", help="labels of every language (default: 10,60)")
    add("--systems", type=words, default="*", help="of systems.yaml, with wildcards: 'deep_thin/*' (default: all)")
    shape = "LAYERSxWIDTH/FFN/HEADS"
    add("--deep-thin", metavar=shape, help="default: all layers, 5/8 of the width (HuBERT Base: 12x480/480/12)")
    add("--shallow-wide", metavar=shape, help="default: two of the teacher's blocks (HuBERT Base: 2x768/3072/12)")
    add("--distil-updates", type=int, default=6000, help="default: %(default)s")
    add("--adaptation-updates", type=int, help="of the distillation, of the system `adapted` (default: a tenth)")
    add(
        "--finetune-updates",
        type=recipes.whole_numbers,
        default="2000",
        help="one, or one for each of --label-minutes (default: 2000)",
    )
    add("--freeze-updates", type=int, help="of a distilled encoder in fine-tuning (default: a tenth of the updates)")
    add("--distil-lr", type=float, default=1e-3, help="default: %(default)s")
    add("--finetune-lr", type=float, default=1e-3, help="default: %(default)s")
    add("--discriminative-weight", type=float, default=1.0, help="default: %(default)s")
    add("--lm", type=recipes.file, help="n-gram model (ARPA or KenLM) of words: the test set is also decoded with it")
    add("--lm-weight", type=float, default=0.5, help="default: %(default)s")
    add("--no-cache", action="store_true", help="run the teacher in every update instead of storing its features once")
    recipes.run_options(add)
    more = "GROUP.NAME=VALUE"
    add("--distil-settings", nargs="*", default=[], metavar=more, help="of every distillation: common.bf16=true")
    add("--finetune-settings", nargs="*", default=[], metavar=more, help="of every fine-tuning")
    args = parser.parse_args(argv)
    args.teacher_codes = str(args.teacher_codes or "")
    args.finetune_updates = [int(updates) for updates in args.finetune_updates]
    if len(args.finetune_updates) == 1:
        args.finetune_updates *= len(args.label_minutes)
    if len(args.finetune_updates) != len(args.label_minutes):
        parser.error("--finetune-updates: one number, or one for each of --label-minutes")
    return args


if __name__ == "__main__":
    main()
