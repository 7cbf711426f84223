"""The arms of the comparison as jobs: which teachers, with which audio, into which transducer (driver: run.py)."""

import argparse
import itertools
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
# A streaming student draws its chunks anew for every batch, the whole utterance among them.
STUDENTS: Dict[str, List[str]] = {"full": [], "streaming": ["--encoder-context", "chunk"]}
# The arms whose stage 2 also learns from a transducer: on the labelled audio, or on all with its own texts.
KD = ("kd", "kd_unlabelled")
LATTICE_KD = ["--kd-mean", "node"]  # all nodes, not those of a path: their sum would drown the text
# A streaming student emits later than its teacher: the best suited of its frames t to t + 2 learns the teacher's t. The
# window is that of 2110.03334's code, its shift is unknown.
STREAMING_KD = ["--kd-shift", "2", "--kd-window", "3"]
ARMS = ("scratch", *COMBINATIONS, "unlabelled", *KD)  # besides one for each teacher, named after it
# Light: a few thousand updates leave little to learn behind the masks of the long schedules (stage2.yaml).
SPEC_AUGMENT = ["--time-masks", "2", "--time-mask-width", "20"]


class Start(NamedTuple):
    """What an encoder learns from in stage 1: the teachers, by name, and more audio than has labels."""

    teachers: List[str]
    combination: str = "sum"
    unlabelled: bool = False


class Run(NamedTuple):
    """One transducer; its folder is STUDENT/ARM/seedSEED."""

    student: str
    arm: str
    seed: str

    @property
    def name(self) -> str:
        return f"{self.student}/{self.arm}/seed{self.seed}"


class Plan:
    """All jobs of a comparison. `runs` says which (student, arm, seed) there are."""

    def __init__(self, out: Path, args: argparse.Namespace) -> None:
        self.out, self.args, self.data = out, args, out / "data"
        self.teachers = split_named(args.teachers, "--teachers")
        self.info = {name: describe_teacher(spec) for name, spec in self.teachers.items()}
        layers = value_of_each(args.teacher_layers, list(self.teachers), "--teacher-layers", default="")
        self.layers = {name: layers[name] or str(info.num_layers) for name, info in self.info.items()}
        self.given_caches = split_named(args.teacher_cache, "--teacher-cache")
        self.cache = {name: self.given_caches.get(name, str(out / "features" / name)) for name in self.teachers}
        self.starts = self.possible_arms()
        chosen = args.arms or list(self.starts)
        for arm in chosen:
            if arm not in self.starts:
                sys.exit(f"--arms: {arm!r} is none of {', '.join(self.starts)}{self.why_not(arm)}")
        self.chosen = [arm for arm in self.starts if arm in chosen]  # what others need comes before them
        self.runs = [Run(*one) for one in itertools.product(args.students, self.chosen, args.seeds)]
        self.check_kd()

    def possible_arms(self) -> Dict[str, Optional[Start]]:
        """Arm -> its start, None from scratch, in the order of the tables."""
        names = list(self.teachers)
        arms: Dict[str, Optional[Start]] = {"scratch": None, **{name: Start([name]) for name in names}}
        if len(names) > 1:
            same = len({info.width for info in self.info.values()}) == 1
            arms.update({how: Start(names, how) for how in COMBINATIONS if how != "average" or same})
        if self.has_unlabelled:
            arms["unlabelled"] = Start(names, unlabelled=True)
        if self.args.kd_teacher or "full" in self.args.students:
            arms["kd"] = arms[self.joint]
            arms.update({"kd_unlabelled": arms["unlabelled"]} if self.has_unlabelled else {})
        return arms

    @property
    def joint(self) -> str:
        """The arm of all teachers on the labelled audio."""
        return "sum" if len(self.teachers) > 1 else next(iter(self.teachers))

    def check_kd(self) -> None:
        if any(arm in KD for arm in self.chosen) and not self.args.kd_teacher and self.joint not in self.chosen:
            sys.exit(f"--arms kd: its teacher is full/{self.joint}: train that one, too, or give --kd-teacher")

    def why_not(self, arm: str) -> str:
        if arm == "average" and len(self.teachers) > 1:
            return "; an average needs teachers of one width, not of " + " and ".join(
                str(info.width) for info in self.info.values()
            )
        if arm.endswith("unlabelled") and not self.has_unlabelled:
            return "; that one needs --unlabelled or --label-minutes"
        return "; that one needs the student full, or --kd-teacher" if arm in KD else ""

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
    def encoder(self, student: str) -> List[str]:
        """Options of the encoder, the same in every arm."""
        shape = Shape.parse(self.args.shape).options() if self.args.shape else []
        return ["--encoder-preset", self.args.preset, *shape, *STUDENTS[student]]

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
        starts = [start for start in map(self.starts.get, self.chosen) if start]
        splits = ["train_audio", "dev_audio"]
        splits += ["train_unlabelled"] if any(start.unlabelled for start in starts) else []
        manifests = ",".join(str(self.data / f"{split}.tsv") for split in splits)
        return [
            Job(f"features/{name}", ["colld", "features", "--manifest", manifests, "--teacher", spec,
                                     "--layers", self.layers[name].replace("+", ","), "--out", self.cache[name]])
            for name, spec in self.teachers.items()
            if name not in self.given_caches and any(name in start.teachers for start in starts)
        ]  # fmt: skip

    def chains(self) -> List[List[Job]]:
        """One chain of jobs for each run: stage 1, stage 2, then for each way of decoding decode, score.

        Arms with the same start share its stage 1, which is the first one's.
        """
        chains = [[self.pseudo_job(seed)] for seed in self.args.seeds if "kd_unlabelled" in self.chosen]
        owners: Dict[Tuple, Run] = {}
        for run in self.runs:
            start = self.starts[run.arm]
            owner = owners.setdefault((run.student, run.seed, str(start)), run)
            chain = [self.stage1_job(run, start)] if start and owner == run else []
            chains.append([*chain, self.stage2_job(run, owner if start else None), *self.decoding_jobs(run)])
        return sorted(chains, key=lambda chain: max(len(job.needs) for job in chain))  # what is needed comes first

    def training(self, task: str, save_dir: Path, seed: str, updates: int, lr: str) -> List[str]:
        command = ["fairseq-train", str(self.data), "--user-dir", "colld_fairseq", "--task", task,
                   "--cmvn", str(self.data / "cmvn.npz")]  # fmt: skip
        return command + training_options(save_dir, seed, updates, lr, self.args.max_tokens)

    def stage1_job(self, run: Run, start: Start) -> Job:
        args, updates = self.args, self.args.stage1_updates
        save_dir = self.out / run.name / "stage1"
        command = self.training("speech_distillation", save_dir, run.seed, updates, args.stage1_lr)
        command += [
            "--train-subset", "train_audio,train_unlabelled" if start.unlabelled else "train_audio",
            "--valid-subset", "dev_audio", "--arch", "colld_student", *self.encoder(run.student), *STAGE_1,
            "--layer-map", self.layer_map(start), "--teacher-combination", start.combination,
            "--teacher", ",".join(f"{teacher}={self.teachers[teacher]}" for teacher in start.teachers),
        ]  # fmt: skip
        command += ["--target-shift", str(args.target_shift)] if run.student == "streaming" else []
        if not args.no_cache:
            command += ["--teacher-cache", ",".join(f"{teacher}={self.cache[teacher]}" for teacher in start.teachers)]
        return Job(f"{run.name}/stage1", command + shlex.split(args.stage1_options), updates)

    def stage2_job(self, run: Run, owner: Optional[Run]) -> Job:
        """owner: the run whose stage 1 this one starts from."""
        args, updates = self.args, self.args.stage2_updates
        save_dir = self.out / run.name / "stage2"
        command = self.training("multilingual_speech_to_text", save_dir, run.seed, updates, args.stage2_lr)
        command += [
            "--train-subset", "train", "--valid-subset", "dev", "--vocab", str(self.out / "vocab"),
            "--arch", "transducer_student", *STAGE_2, "--ctc-weight", args.ctc_weight, *self.ctc_target, *SPEC_AUGMENT,
            "--predictor-embed-dim", str(args.predictor_dim), "--joiner-dim", str(args.predictor_dim),
        ]  # fmt: skip
        needs = []
        if owner is None:
            command += self.encoder(run.student)
        else:
            freeze = updates // 20 if args.freeze_updates is None else args.freeze_updates
            command += ["--student", str(self.out / owner.name / "stage1" / "checkpoint_last.pt"),
                        "--freeze-encoder-updates", str(freeze)]  # fmt: skip
            needs += [f"{owner.name}/stage1"] if owner != run else []
        if run.arm in KD:
            teacher, needed = self.kd_teacher(run.seed)
            needs += needed
            command += ["--teacher-transducer", teacher, "--kd", args.kd, "--kd-weight", args.kd_weight]
            command += [] if args.kd == "one_best" else LATTICE_KD
            command += STREAMING_KD if run.student == "streaming" and args.kd == "one_best" else []
        if run.arm == "kd_unlabelled":
            pseudo = f"train_pseudo_seed{run.seed}"
            needs.append(pseudo)
            command[command.index("--train-subset") + 1] += f",{pseudo}"
        return Job(f"{run.name}/stage2", command + shlex.split(args.stage2_options), updates, needs)

    def kd_teacher(self, seed: str) -> Tuple[str, List[str]]:
        """The transducer that the KD arms learn from, and the job that trains it, if one does."""
        if self.args.kd_teacher:
            return str(self.args.kd_teacher.resolve()), []
        run = Run("full", self.joint, seed)
        return str(self.out / run.name / "stage2" / "checkpoint_best.pt"), [f"{run.name}/stage2"]

    def pseudo_job(self, seed: str) -> Job:
        """Its texts of unlabelled audio."""
        (teacher, needs), name = self.kd_teacher(seed), f"train_pseudo_seed{seed}"
        command = ["colld", "transcribe", teacher, "--manifest", str(self.data / "train_untranscribed.tsv"),
                   "--beam", str(self.args.beam), "--options", f"ctc_length_score={self.args.length_score}",
                   "--out", str(self.data / f"{name}.tsv")]  # fmt: skip
        return Job(name, command, needs=needs)

    def ways(self, student: str) -> Dict[str, List[str]]:
        """Way of decoding -> its options. A streaming student hears chunks, and for comparison all at once."""
        beam = self.args.beam
        # The most probable text is often too short, and a beam finds it where greedy search does not: the length score
        # makes up for that (deletions with and without: RESULTS.md).
        wider = {f"beam{beam}": ["--beam", str(beam), "--ctc-length-score", self.args.length_score]}
        ways = {"greedy": ["--beam", "1"], **(wider if beam > 1 else {})}
        if student == "full":
            return ways
        chunk = f"{{'eval_chunk': '{self.args.chunk}', 'eval_left_context': '{self.args.left_context}'}}"
        chunks = {way: [*options, "--model-overrides", chunk] for way, options in ways.items()}
        whole = "{'eval_chunk': 'full', 'eval_left_context': 'full'}"
        return {**chunks, "whole": ["--beam", "1", "--model-overrides", whole]}

    def decoding_jobs(self, run: Run) -> List[Job]:
        """fairseq-generate on all test rows, and their scores."""
        jobs, name = [], run.name
        for way, options in self.ways(run.student).items():
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
        first = {run.student: run for run in reversed(self.runs)}
        encoders = [str(self.out / run.name / "stage2" / "checkpoint_best.pt") for run in first.values()]
        return Job("profile", ["colld", "profile", "--student", *encoders, "--teacher", *self.teachers.values(),
                               "--batch-sizes", "1", "--json", str(self.out / "profile.json")])  # fmt: skip
