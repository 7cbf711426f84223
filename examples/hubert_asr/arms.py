"""The arms of the comparison as jobs: which student, from which start, with which loss (driver: run.py)."""

import argparse
import math
import shlex
import sys
from pathlib import Path
from typing import Dict, List

from lanes import Job, training_options
from student_shape import Shape

from colld_fairseq.models.initialisation import read_checkpoint_of

HERE = Path(__file__).resolve().parent
# A student that sees its audio two or three times does not learn it by heart; the architectures' 0.1 is for 960 hours.
NO_DROPOUT = ["--dropout", "0", "--attention-dropout", "0", "--activation-dropout", "0", "--dropout-input", "0"]
REGRESSION = ["--l1-weight", "1", "--log-sigmoid-cosine-weight", "1"]
CMVN_HOURS = "2"  # drawn at random: a mean of 80 numbers needs no more
# Student -> arm -> is it distilled?
ARMS: Dict[str, Dict[str, bool]] = {
    "deep_thin": {"scratch": False, "regression": True, "discriminative": True},
    "shallow_wide": {"scratch": False, "regression": True, "discriminative": True},
    "deep_thin_fbank": {"scratch": False, "discriminative": True, "adapted": True},
    "teacher": {"fine_tuned": False},
}
# Milder than the 0.65 and 0.5 of the long schedules: at a few thousand updates those leave nothing to learn from.
MASKS = [
    "--time-mask-prob", "0.2", "--time-mask-length", "10", "--channel-mask-prob", "0.1", "--channel-mask-length", "16",
    "--activation-dropout", "0.1",
]  # fmt: skip


class Plan:
    """All jobs of a comparison. `runs` says which (student, arm, seed) there are."""

    def __init__(self, out: Path, args: argparse.Namespace) -> None:
        self.out, self.args, self.data = out, args, out / "data"
        self.teacher, _ = read_checkpoint_of(args.teacher)
        self.runs = [
            (student, arm, seed)
            for seed in args.seeds
            for student in args.students
            for arm in ARMS[student]
            if not args.arms or arm in args.arms
        ]
        if not self.runs:
            sys.exit("--students and --arms choose nothing")

    # -- shapes ----------------------------------------------------------------------------------------------------
    def shape(self, student: str) -> Shape:
        """As given, or in the proportions that the published students have to HuBERT Base."""
        args, teacher = self.args, self.teacher
        if student == "shallow_wide":
            default = Shape(2, teacher.embed_dim, teacher.ffn_dim, teacher.attention_heads)
            return Shape.parse(args.shallow_wide) if args.shallow_wide else default
        step = math.lcm(teacher.attention_heads, teacher.conv_pos_groups)
        width = step * max(1, round(5 / 8 * teacher.embed_dim / step))
        default = Shape(teacher.layers, width, width, teacher.attention_heads)
        return Shape.parse(args.deep_thin) if args.deep_thin else default

    def shape_options(self, student: str) -> List[str]:
        options = self.shape(student).options()
        options += ["--conv-pos", str(self.teacher.conv_pos), "--conv-pos-groups", str(self.teacher.conv_pos_groups)]
        if student == "deep_thin_fbank":
            return options
        convolutions = [tuple(layer) for layer in self.teacher.conv_layers]
        return [*options, "--conv-feature-layers", str(convolutions)]

    def layer_map(self, student: str) -> str:
        """Deep and thin: layer by layer. Shallow and wide: three teacher layers from the last one."""
        if student != "shallow_wide":
            return "dense"
        last, top = self.shape(student).layers, self.teacher.layers
        return ",".join(f"{last}:{layer}" for layer in sorted({max(1, round(k * top / 3)) for k in (1, 2, 3)}))

    # -- jobs ------------------------------------------------------------------------------------------------------
    def common_jobs(self) -> List[Job]:
        """What all arms need: manifests, vocabulary, the teacher's features."""
        args, data = self.args, self.data
        prepare = [sys.executable, str(HERE / "prepare.py"), str(data), "--data", str(args.data.resolve()),
                   "--label-minutes", ",".join(args.label_minutes)]  # fmt: skip
        if args.unlabelled:
            prepare += ["--unlabelled", ",".join(str(Path(path).resolve()) for path in args.unlabelled.split(","))]
        # Letters of all transcripts, so that every amount of labels has the same output layer.
        vocab = ["colld", "vocab", "--manifest", str(args.data.resolve() / "train_asr.tsv"), "--lowercase",
                 "--remove-punctuation", "--out", str(self.out / "vocab")]  # fmt: skip
        jobs = [Job("prepare", prepare), Job("vocab", vocab)]
        if any(student == "deep_thin_fbank" for student, _, _ in self.runs):
            cmvn = ["colld", "cmvn", "--manifest", str(data / "train_unlabelled.tsv"), "--max-hours", CMVN_HOURS,
                    "--out", str(data / "cmvn.npz")]  # fmt: skip
            jobs.append(Job("cmvn", cmvn))
        if not args.no_cache and any(ARMS[student][arm] for student, arm, _ in self.runs):
            manifests = ",".join(str(data / f"{name}.tsv") for name in ("train_unlabelled", "dev_asr"))
            layers = ",".join(str(layer) for layer in range(self.teacher.layers + 1))
            jobs.append(Job("features", ["colld", "features", "--manifest", manifests, "--teacher", args.teacher,
                                         "--layers", layers, "--out", str(self.out / "features")]))  # fmt: skip
        return jobs

    def chains(self) -> List[List[Job]]:
        """One chain of jobs for each run: distil, then for each amount of labels fine-tune, decode, score."""
        chains = []
        for student, arm, seed in self.runs:
            name = f"{student}/{arm}/seed{seed}"
            chain = [self.distil_job(name, student, arm, seed)] if ARMS[student][arm] else []
            for minutes, updates in zip(self.args.label_minutes, self.args.finetune_updates):
                chain.append(self.finetune_job(name, student, arm, seed, minutes, updates))
                chain += self.decoding_jobs(f"{name}/{minutes}min", student)
            chains.append(chain)
        return chains

    def training(self, save_dir: Path, seed: str, updates: int, lr: str) -> List[str]:
        return training_options(save_dir, seed, updates, lr, self.args.max_tokens)

    def cmvn(self, student: str) -> List[str]:
        return ["--cmvn", str(self.data / "cmvn.npz")] if student == "deep_thin_fbank" else []

    def distil_job(self, name: str, student: str, arm: str, seed: str) -> Job:
        args, updates = self.args, self.args.distil_updates
        command = [
            "fairseq-train", str(self.data), "--user-dir", "colld_fairseq", "--task", "speech_distillation",
            "--train-subset", "train_unlabelled", "--valid-subset", "dev_asr", "--teacher", args.teacher,
            "--arch", f"hubert_student_{student}", *self.shape_options(student), *self.cmvn(student), *NO_DROPOUT,
            "--layer-map", self.layer_map(student), "--criterion", "hubert_distillation", *REGRESSION,
        ]  # fmt: skip
        if not args.no_cache:
            command += ["--teacher-cache", str(self.out / "features")]
        if student == "shallow_wide":
            blocks = ",".join(str(block) for block in range(1, self.shape(student).layers + 1))
            command += ["--init-from", args.teacher, "--init-layers", blocks]
        if arm == "regression":
            command += ["--discriminative-weight", "0", "--code-head", "none"]
        else:
            command += ["--discriminative-weight", args.discriminative_weight, "--code-head", "linear"]
            command += ["--teacher-codes", str(Path(args.teacher_codes).resolve())] if args.teacher_codes else []
        if arm == "adapted":
            adaptation = updates // 10 if args.adaptation_updates is None else args.adaptation_updates
            command += ["--front-end-head", "--front-end-updates", str(adaptation), "--front-end-weight", "1"]
        command += self.training(self.out / name / "distil", seed, updates, args.distil_lr)
        return Job(f"{name}/distil", command + shlex.split(args.distil_options), updates)

    def finetune_job(self, name: str, student: str, arm: str, seed: str, minutes: str, updates: int) -> Job:
        arch = "student_ctc" if student == "teacher" else f"student_ctc_{student}"
        command = [
            "fairseq-train", str(self.data), "--user-dir", "colld_fairseq", "--task", "multilingual_speech_to_text",
            "--train-subset", f"train_{minutes}min", "--valid-subset", "dev_asr", "--vocab", str(self.out / "vocab"),
            "--arch", arch, "--criterion", "ctc_attention", *MASKS, *self.cmvn(student),
            "--best-checkpoint-metric", "cer",
        ]  # fmt: skip
        if arm == "scratch":
            command += [*self.shape_options(student), "--feature-grad-mult", "1"]
        else:  # the waveform convolutions have learnt from more audio than there are labels for
            distilled = str(self.out / name / "distil" / "checkpoint_last.pt")
            start = self.args.teacher if student == "teacher" else distilled
            freeze = updates // 10 if self.args.freeze_updates is None else self.args.freeze_updates
            command += ["--student", start, "--freeze-encoder-updates", str(freeze), "--feature-grad-mult", "0"]
        save_dir = self.out / name / f"{minutes}min" / "finetune"
        command += self.training(save_dir, seed, updates, self.args.finetune_lr)
        return Job(f"{name}/{minutes}min/finetune", command + shlex.split(self.args.finetune_options), updates)

    def decoding_jobs(self, name: str, student: str) -> List[Job]:
        """fairseq-generate on all test languages, greedily and, where a language model is given, with it."""
        ways = {"greedy": ["--beam", "1"]}
        if self.args.lm:
            ways["lm"] = ["--beam", "20", "--ctc-lm", str(self.args.lm.resolve()), "--ctc-lm-weight",
                          self.args.lm_weight, "--ctc-length-score", "1"]  # fmt: skip
        jobs = []
        for way, options in ways.items():
            results = self.out / name / way
            generate = [
                "fairseq-generate", str(self.data), "--user-dir", "colld_fairseq",
                "--task", "multilingual_speech_to_text", "--vocab", str(self.out / "vocab"), *self.cmvn(student),
                "--path", str(self.out / name / "finetune" / "checkpoint_best.pt"), "--gen-subset", "test_asr",
                "--post-process", "letter", *options, "--max-tokens", str(4 * self.args.max_tokens),
                "--num-workers", "0", "--results-path", str(results),
            ]  # fmt: skip
            score = ["colld", "score", "--generate-output", str(results / "generate-test_asr.txt"), "--manifest",
                     str(self.data / "test_asr.tsv"), "--json", str(self.out / name / f"{way}.json")]  # fmt: skip
            jobs += [Job(f"{name}/generate_{way}", generate), Job(f"{name}/score_{way}", score)]
        return jobs

    def profile_job(self) -> Job:
        """Size and speed: one encoder a student (arms do not differ), and the teacher."""
        first = {student: (arm, seed) for student, arm, seed in reversed(self.runs)}
        labels = f"{self.args.label_minutes[0]}min"
        encoders = [
            str(self.out / student / arm / f"seed{seed}" / labels / "finetune" / "checkpoint_best.pt")
            for student, (arm, seed) in first.items()
            if student != "teacher"
        ]
        students = ["--student", *encoders] if encoders else []
        return Job("profile", ["colld", "profile", *students, "--teacher", self.args.teacher,
                               "--json", str(self.out / "profile.json")])  # fmt: skip
