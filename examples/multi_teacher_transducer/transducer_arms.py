"""The arms of the comparison as jobs: which teachers, with which audio, into which transducer (driver: run.py)."""

import argparse
import shlex
import sys
from functools import cached_property
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

from lanes import Job, training_options
from manifest_rows import read_rows
from student_shape import Shape

from colld_fairseq.models.encoder_presets import PRESETS
from colld_fairseq.named_values import split_named, value_of_each
from colld_fairseq.teachers.describe import describe_teacher

HERE = Path(__file__).resolve().parent
CMVN_HOURS = "2"  # drawn at random: a mean of 80 numbers needs no more
COMBINATIONS = ("sum", "random", "average")
# Teacher channels are normalised over the clip: a few huge ones rule raw Whisper features (study in RESULTS.md).
STAGE_1 = ["--criterion", "multi_teacher", "--head", "linear", "--mask-prob", "0", "--target-norm", "instance"]
STAGE_2 = ["--criterion", "transducer", "--auxiliary-ctc", "--best-checkpoint-metric", "cer"]
SPEC_AUGMENT = ["--freq-masks", "2", "--freq-mask-width", "15", "--time-masks", "2", "--time-mask-width", "20"]


class Start(NamedTuple):
    """What an encoder learns from in stage 1: the teachers, by name, and more audio than has labels."""

    teachers: List[str]
    combination: str = "sum"
    unlabelled: bool = False


class Plan:
    """All jobs of a comparison. `runs` says which (student, arm, seed) there are."""

    def __init__(self, out: Path, args: argparse.Namespace) -> None:
        self.out, self.args, self.data = out, args, out / "data"
        self.teachers = split_named(args.teachers, "--teachers")
        self.info = {name: describe_teacher(spec) for name, spec in self.teachers.items()}
        layers = value_of_each(args.teacher_layers, list(self.teachers), "--teacher-layers", default="")
        self.layers = {name: layers[name] or str(info.num_layers) for name, info in self.info.items()}
        self.starts = self.possible_arms()
        chosen = args.arms or list(self.starts)
        for arm in chosen:
            if arm not in self.starts:
                sys.exit(f"--arms: {arm!r} is none of {', '.join(self.starts)}{self.why_not(arm)}")
        self.runs = [(student, arm, seed) for seed in args.seeds for student in args.students for arm in chosen]

    def possible_arms(self) -> Dict[str, Optional[Start]]:
        """Arm -> its start, None from scratch, in the order of the tables."""
        names = list(self.teachers)
        arms: Dict[str, Optional[Start]] = {"scratch": None, **{name: Start([name]) for name in names}}
        if len(names) > 1:
            same = len({info.width for info in self.info.values()}) == 1
            arms.update({how: Start(names, how) for how in COMBINATIONS if how != "average" or same})
        if self.has_unlabelled:
            arms["unlabelled"] = Start(names, unlabelled=True)
        return arms

    def why_not(self, arm: str) -> str:
        if arm == "average" and len(self.teachers) > 1:
            return "; an average needs teachers of one width, not of " + " and ".join(
                str(info.width) for info in self.info.values()
            )
        return "; that one needs --unlabelled or --label-minutes" if arm == "unlabelled" else ""

    @property
    def has_unlabelled(self) -> bool:
        return bool(self.args.unlabelled) or self.args.label_minutes is not None

    # -- what the data say -------------------------------------------------------------------------------------------
    @cached_property
    def pairs(self) -> List[Tuple[str, str]]:
        """(src_lang, tgt_lang) of the training rows."""
        return sorted({(row.src_lang, row.tgt_lang) for row in read_rows(self.args.train)})

    @property
    def translates(self) -> bool:
        return any(source not in ("", target) for source, target in self.pairs)

    @property
    def ctc_target(self) -> List[str]:
        """CTC, which keeps the order of what was said, learns transcripts if the vocabulary has their letters."""
        spoken, written = ({pair[side] for pair in self.pairs} for side in (0, 1))
        return ["--ctc-target", "src_text"] if self.translates and spoken <= written else []

    # -- shapes ------------------------------------------------------------------------------------------------------
    @property
    def shape(self) -> List[str]:
        """Options of the encoder, the same in every arm and stage."""
        options = Shape.parse(self.args.shape).options() if self.args.shape else []
        return ["--encoder-preset", self.args.preset, *options]

    def layer_map(self, start: Start) -> str:
        """The last layer of the student predicts the chosen layers of every teacher (default: its last)."""
        last = Shape.parse(self.args.shape).layers if self.args.shape else PRESETS[self.args.preset]["layers"]
        return ",".join(
            f"{name}=" + ",".join(f"{last}:{layer}" for layer in self.layers[name].split("+"))
            for name in start.teachers
        )

    # -- jobs --------------------------------------------------------------------------------------------------------
    def common_jobs(self) -> List[Job]:
        """What all arms need: manifests, vocabulary, statistics, the teachers' features."""
        args, data = self.args, self.data
        given = {name: getattr(args, name) for name in ("train", "dev", "test", "unlabelled") if getattr(args, name)}
        prepare = [sys.executable, str(HERE / "prepare.py"), str(data)]
        for name, paths in given.items():
            prepare += [f"--{name}", paths]
        if args.label_minutes is not None:
            prepare += ["--label-minutes", str(args.label_minutes)]
        # Of all transcripts, so that every amount of labels has the same output layer.
        vocab = ["colld", "vocab", "--manifest", args.train, "--lowercase", "--remove-punctuation",
                 "--out", str(self.out / "vocab")]  # fmt: skip
        vocab += ["--kind", "sentencepiece", "--size", str(args.pieces)] if args.pieces else []
        vocab += ["--lang-tags"] if self.translates else []
        cmvn = ["colld", "cmvn", "--manifest", str(data / "train_audio.tsv"), "--max-hours", CMVN_HOURS,
                "--out", str(data / "cmvn.npz")]  # fmt: skip
        jobs = [Job("prepare", prepare), Job("vocab", vocab), Job("cmvn", cmvn)]
        return jobs if args.no_cache else [*jobs, *self.feature_jobs()]

    def feature_jobs(self) -> List[Job]:
        """The features of every teacher that an arm learns from, of all the audio that an arm needs."""
        starts = [start for start in (self.starts[arm] for _, arm, _ in self.runs) if start]
        splits = ["train_audio", "dev_audio"]
        splits += ["train_unlabelled"] if any(start.unlabelled for start in starts) else []
        manifests = ",".join(str(self.data / f"{split}.tsv") for split in splits)
        return [
            Job(f"features/{name}", ["colld", "features", "--manifest", manifests, "--teacher", spec,
                                     "--layers", self.layers[name].replace("+", ","), "--out", self.cache(name)])
            for name, spec in self.teachers.items()
            if any(name in start.teachers for start in starts)
        ]  # fmt: skip

    def cache(self, name: str) -> str:
        return str(self.out / "features" / name)

    def chains(self) -> List[List[Job]]:
        """One chain of jobs for each run: stage 1, stage 2, then for each way of decoding decode, score."""
        chains = []
        for student, arm, seed in self.runs:
            name, start = f"{student}/{arm}/seed{seed}", self.starts[arm]
            chain = [self.stage1_job(name, start, seed)] if start else []
            chain += [self.stage2_job(name, start, seed), *self.decoding_jobs(name)]
            chains.append(chain)
        return chains

    def training(self, task: str, save_dir: Path, seed: str, updates: int, lr: str) -> List[str]:
        command = ["fairseq-train", str(self.data), "--user-dir", "colld_fairseq", "--task", task,
                   "--cmvn", str(self.data / "cmvn.npz")]  # fmt: skip
        return command + training_options(save_dir, seed, updates, lr, self.args.max_tokens)

    def stage1_job(self, name: str, start: Start, seed: str) -> Job:
        args, updates = self.args, self.args.stage1_updates
        command = self.training("speech_distillation", self.out / name / "stage1", seed, updates, args.stage1_lr)
        command += [
            "--train-subset", "train_audio,train_unlabelled" if start.unlabelled else "train_audio",
            "--valid-subset", "dev_audio", "--arch", "colld_student", *self.shape, *STAGE_1,
            "--layer-map", self.layer_map(start), "--teacher-combination", start.combination,
            "--teacher", ",".join(f"{teacher}={self.teachers[teacher]}" for teacher in start.teachers),
        ]  # fmt: skip
        if not args.no_cache:
            command += ["--teacher-cache", ",".join(f"{teacher}={self.cache(teacher)}" for teacher in start.teachers)]
        return Job(f"{name}/stage1", command + shlex.split(args.stage1_options), updates)

    def stage2_job(self, name: str, start: Optional[Start], seed: str) -> Job:
        args, updates = self.args, self.args.stage2_updates
        command = self.training(
            "multilingual_speech_to_text", self.out / name / "stage2", seed, updates, args.stage2_lr
        )
        command += [
            "--train-subset", "train", "--valid-subset", "dev", "--vocab", str(self.out / "vocab"),
            "--arch", "transducer_student", *STAGE_2, "--ctc-weight", args.ctc_weight, *self.ctc_target, *SPEC_AUGMENT,
            "--predictor-embed-dim", str(args.predictor_dim), "--joiner-dim", str(args.predictor_dim),
        ]  # fmt: skip
        if start is None:
            command += self.shape
        else:
            freeze = updates // 20 if args.freeze_updates is None else args.freeze_updates
            command += ["--student", str(self.out / name / "stage1" / "checkpoint_last.pt"),
                        "--freeze-encoder-updates", str(freeze)]  # fmt: skip
        return Job(f"{name}/stage2", command + shlex.split(args.stage2_options), updates)

    def ways(self) -> Dict[str, List[str]]:
        """Way of decoding -> its options."""
        beam = {f"beam{self.args.beam}": ["--beam", str(self.args.beam)]} if self.args.beam > 1 else {}
        return {"greedy": ["--beam", "1"], **beam}

    def decoding_jobs(self, name: str) -> List[Job]:
        """fairseq-generate on all test rows, and their scores."""
        jobs = []
        for way, options in self.ways().items():
            results = self.out / name / way
            generate = [
                "fairseq-generate", str(self.data), "--user-dir", "colld_fairseq",
                "--task", "multilingual_speech_to_text", "--vocab", str(self.out / "vocab"),
                "--cmvn", str(self.data / "cmvn.npz"), "--gen-subset", "test", *options,
                "--path", str(self.out / name / "stage2" / "checkpoint_best.pt"),
                "--post-process", "sentencepiece" if self.args.pieces else "letter",
                "--max-tokens", str(4 * self.args.max_tokens), "--num-workers", "0", "--results-path", str(results),
            ]  # fmt: skip
            score = ["colld", "score", "--generate-output", str(results / "generate-test.txt"), "--manifest",
                     str(self.data / "test.tsv"), "--json", str(self.out / name / f"{way}.json")]  # fmt: skip
            jobs += [Job(f"{name}/generate_{way}", generate), Job(f"{name}/score_{way}", score)]
        return jobs

    def profile_job(self) -> Job:
        """Size and speed: one encoder a student (arms do not differ), and the teachers."""
        first = {student: (arm, seed) for student, arm, seed in reversed(self.runs)}
        encoders = [
            str(self.out / student / arm / f"seed{seed}" / "stage2" / "checkpoint_best.pt")
            for student, (arm, seed) in first.items()
        ]
        return Job("profile", ["colld", "profile", "--student", *encoders, "--teacher", *self.teachers.values(),
                               "--batch-sizes", "1", "--json", str(self.out / "profile.json")])  # fmt: skip
