"""Compare transducers whose encoders started from scratch, from one teacher and from several:

    python -m examples.multi_teacher_transducer.run OUT --train A.tsv,B.tsv --dev C.tsv --test D.tsv \\
        --teachers NAME=SPEC,NAME=SPEC ...

The manifests hold recognition and translation, in any mix; with translation the vocabulary has language tags. The
recipes are stage1.yaml, stage2.yaml and stage2_kd.yaml; systems.yaml says which systems there are and, with
../driver/small.yaml, what is changed in the recipes. Students have the whole
utterance as their context (full) or chunks (streaming).

All systems have the same shape, updates, batches, schedule, masks and labels in stage 2, and are decoded greedily and
with a beam. Every job is a command line that you can run yourself (OUT/commands.sh). A finished job is not run again, a
killed one resumes; `python -m examples.driver.report OUT` makes tables of what is there.
"""

import argparse
import sys
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from colld_fairseq.errors import ConfigError
from colld_fairseq.models.encoder_presets import PRESETS
from colld_fairseq.named_values import all_named, split_named, value_of_each
from colld_fairseq.teachers import describe_teacher
from examples.driver import recipes
from examples.driver.jobs import Job
from examples.driver.plan import Plan, Result, run_comparison
from examples.driver.recipes import SMALL, Config, Shape, manifests, override, read_yaml, resolved, training_job, words
from examples.driver.utterances import read_rows

HERE = Path(__file__).resolve().parent
TABLE = read_yaml(HERE / "systems.yaml")


class System(NamedTuple):
    """What an encoder learns from in stage 1 (no teachers: from scratch), and whether stage 2 has a teacher, too."""

    label: str
    teachers: Tuple[str, ...]
    stage1: Config
    unlabeled: bool
    kd: bool

    @property
    def start(self) -> str:
        """The same for systems that share their stage 1."""
        return str((self.teachers, self.stage1, self.unlabeled))


class Comparison:
    """All jobs of a comparison."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out, self.data = args, args.out, args.out / "data"
        self.teachers = split_named(args.teachers, "--teachers")
        self.info = {name: describe_teacher(spec) for name, spec in self.teachers.items()}
        layers = value_of_each(args.teacher_layers, list(self.teachers), "--teacher-layers", default="")
        self.layers = {name: layers[name] or str(info.num_layers) for name, info in self.info.items()}
        for name, one in self.layers.items():
            recipes.check_layers(f"--teacher-layers {name}", one.split("+"), self.info[name])
        self.given_caches = split_named(args.teacher_cache, "--teacher-cache")
        self.cache = {name: self.given_caches.get(name, str(args.out / "features" / name)) for name in self.teachers}
        self.has_unlabeled = bool(args.unlabeled) or args.label_minutes is not None
        self.joint = "sum" if len(self.teachers) > 1 else next(iter(self.teachers))  # of all teachers
        self.possible = self.possible_systems()
        for name in args.systems:
            if name not in self.possible:
                sys.exit(f"--systems: {name!r} is none of {', '.join(self.possible)}{self.why_not(name)}")
        self.chosen = {name: one for name, one in self.possible.items() if not args.systems or name in args.systems}
        if any(one.kd for one in self.chosen.values()) and not args.kd_teacher and self.joint not in self.chosen:
            sys.exit(f"--systems kd: its teacher is full/{self.joint}: train that one, too, or give --kd-teacher")

    def possible_systems(self) -> Dict[str, System]:
        """Name -> system, in the order of the tables."""
        names = tuple(self.teachers)
        systems: Dict[str, System] = {}
        for name, row in TABLE["systems"].items():
            taught, stage1 = () if row["teachers"] == "none" else names, row.get("stage1", {})
            system = System(row["label"], taught, stage1, row.get("unlabeled", False), row.get("kd", False))
            if row["teachers"] == "each":
                each = {one: system._replace(label=row["label"].format(teacher=one), teachers=(one,)) for one in names}
                systems.update(each)
            elif not self.why_not(name):
                systems[name] = system
        return systems

    def why_not(self, name: str) -> str:
        """Why a system of the table is not possible here; "" where it is."""
        widths = {info.width for info in self.info.values()}
        if name in ("sum", "random", "average") and len(self.teachers) == 1:
            return "; that one needs several teachers"
        if name == "average" and len(widths) > 1:
            return f"; an average needs teachers of one width, not of {' and '.join(map(str, sorted(widths)[::-1]))}"
        row = TABLE["systems"].get(name, {})
        if row.get("unlabeled") and not self.has_unlabeled:
            return "; that one needs --unlabeled or --label-minutes"
        if row.get("kd") and not self.args.kd_teacher and "full" not in self.args.students:
            return "; that one needs the student full, or --kd-teacher"
        return ""

    # -- what the data say ---------------------------------------------------------------------------------------------
    @cached_property
    def pairs(self) -> List[Tuple[str, str]]:
        """(src_lang, tgt_lang) of the training rows."""
        return sorted({(row.src_lang, row.tgt_lang) for row in read_rows(self.args.train)})

    @property
    def translates(self) -> bool:
        return any(source not in ("", target) for source, target in self.pairs)

    @property
    def ctc_target(self) -> Config:
        """CTC, which keeps the order of what was said, learns transcripts if the vocabulary has their letters."""
        spoken, written = ({pair[side] for pair in self.pairs} for side in (0, 1))
        return {"ctc_target": "src_text"} if self.translates and spoken <= written else {}

    # -- jobs ----------------------------------------------------------------------------------------------------------
    def plan(self) -> Tuple[List[Job], Plan]:
        jobs = self.common_jobs()
        common = [job.name for job in jobs]
        results, encoders, owners = [], {}, {}
        for seed in self.args.seeds:
            for student in self.args.students:
                for name, system in self.chosen.items():
                    run, needs, logs = f"{student}/{name}/seed{seed}", list(common), {}
                    owner = owners.setdefault((student, seed, system.start), run) if system.teachers else None
                    if owner == run:
                        jobs.append(self.stage1_job(run, student, system, seed, common))
                        logs["stage 1"] = f"{run}/stage1.log"
                    if system.kd and system.unlabeled and f"train_pseudo_seed{seed}" not in [job.name for job in jobs]:
                        jobs.append(self.pseudo_job(seed, common))
                    jobs.append(self.stage2_job(run, student, system, seed, owner, common))
                    logs["stage 2"] = f"{run}/stage2.log"
                    checkpoint = f"{run}/stage2/checkpoint_best.pt"
                    encoders.setdefault(student, checkpoint)
                    for way, options in self.ways(student).items():
                        options = [*self.decoding_options, *options]
                        scores, needs = f"{run}/{way}", [f"{run}/stage2"]
                        jobs += recipes.decoding_jobs(
                            self.out, scores, self.data, "test", self.out / checkpoint, options, needs
                        )
                        group = f"student {student}, {way}"
                        result = Result(name, system.label, int(seed), group, [f"{scores}.json"], logs, checkpoint)
                        results.append(result)
        encoders.update(self.teachers)
        notes, settings = TABLE["notes"], vars(self.args)
        return jobs, Plan(TABLE["title"], results, self.comparisons(), encoders, notes=notes, settings=settings)

    def comparisons(self) -> List[List[Any]]:
        """With the system from scratch, and with the best of those from a single teacher."""
        made = []
        for text, baselines in (("from scratch", ["scratch"]), ("the best single teacher", list(self.teachers))):
            baselines = [name for name in baselines if name in self.chosen]
            for name, system in self.chosen.items():
                if baselines and name not in baselines:
                    made.append([f"{system.label} over {text}", name, baselines])
        return made

    def common_jobs(self) -> List[Job]:
        """What all systems need: manifests, vocabulary, statistics, the teachers' features."""
        args, data = self.args, self.data
        prepare = [sys.executable, "-m", "examples.multi_teacher_transducer.prepare", str(data)]
        for name in ("train", "dev", "test", "unlabeled"):
            prepare += [f"--{name}", getattr(args, name)] if getattr(args, name) else []
        if args.label_minutes is not None:
            prepare += ["--label-minutes", str(args.label_minutes)]
        # Of all transcripts, so that every amount of labels has the same output layer.
        vocab = ["colld", "vocab", "--manifest", args.train, "--lowercase", "--remove-punctuation"]
        vocab += ["--kind", "sentencepiece", "--size", str(args.pieces)] if args.pieces else []
        vocab += ["--lang-tags"] if self.translates else []
        jobs = [
            Job("prepare", prepare),
            Job("vocab", [*vocab, "--out", str(self.out / "vocab")]),
            recipes.cmvn_job("cmvn", data / "train_audio.tsv", data / "cmvn.npz", ["prepare"]),
        ]
        return jobs if args.no_cache else [*jobs, *self.feature_jobs()]

    def feature_jobs(self) -> List[Job]:
        """The features of every teacher that a system learns from, of all the audio that a system needs."""
        splits = ["train_audio", "dev_audio"]
        splits += ["train_unlabeled"] if any(system.unlabeled for system in self.chosen.values()) else []
        audio = ",".join(str(self.data / f"{split}.tsv") for split in splits)
        jobs = []
        for name, spec in self.teachers.items():
            if name not in self.given_caches and any(name in system.teachers for system in self.chosen.values()):
                layers = self.layers[name].replace("+", ",")
                features = ["colld", "features", "--manifest", audio, "--teacher", spec, "--layers", layers]
                jobs.append(Job(f"features/{name}", [*features, "--out", self.cache[name]], ["prepare"]))
        return jobs

    def encoder(self, student: str) -> Config:
        """Of the model, the same in every system."""
        shape = Shape.parse(self.args.shape).options() if self.args.shape else {}
        return {"encoder_preset": self.args.preset, **shape, **TABLE["students"][student]["model"]}

    def layer_map(self, teachers: Tuple[str, ...]) -> str:
        """The last layer of the student predicts the chosen layers of every teacher (default: its last)."""
        last = Shape.parse(self.args.shape).layers if self.args.shape else PRESETS[self.args.preset]["layers"]
        pairs = {name: ",".join(f"{last}:{layer}" for layer in self.layers[name].split("+")) for name in teachers}
        return ",".join(f"{name}={of_teacher}" for name, of_teacher in pairs.items())

    def stage1_job(self, run: str, student: str, system: System, seed: str, needs: List[str]) -> Job:
        args, name = self.args, f"{run}/stage1"
        filled: Config = {
            "task": {
                "data": str(self.data),
                "teacher": ",".join(f"{teacher}={self.teachers[teacher]}" for teacher in system.teachers),
                "teacher_cache": ",".join(f"{teacher}={self.cache[teacher]}" for teacher in system.teachers),
            },
            "dataset": {"train_subset": "train_audio,train_unlabeled" if system.unlabeled else "train_audio"},
            "model": {**self.encoder(student), "layer_map": self.layer_map(system.teachers)},
            "criterion": {"target_shift": args.target_shift if student == "streaming" else 0},
        }
        if args.no_cache:
            filled["task"]["teacher_cache"] = ""
        size = recipes.sized(self.out / name, int(seed), args.stage1_updates, args.stage1_lr, args.max_tokens)
        more = recipes.parse_settings(args.stage1_settings)
        changes = (read_yaml(SMALL), TABLE["stage1"], filled, system.stage1, size, more)
        return training_job(self.out, name, override(read_yaml(HERE / "stage1.yaml"), *changes), needs)

    def stage2_job(
        self, run: str, student: str, system: System, seed: str, owner: Optional[str], common: List[str]
    ) -> Job:
        """owner: the run whose stage 1 this one starts from."""
        args, name, needs = self.args, f"{run}/stage2", list(common)
        filled: Config = {
            "task": {"data": str(self.data), "vocab": str(self.out / "vocab"), **self.ctc_target},
            "model": {"predictor_embed_dim": args.predictor_dim, "joiner_dim": args.predictor_dim},
            "criterion": {"ctc_weight": args.ctc_weight},
        }
        if owner is None:
            filled["task"]["cmvn"] = str(self.data / "cmvn.npz")
            filled["model"].update(self.encoder(student), student="", freeze_encoder_updates=0)
        else:
            freeze = args.stage2_updates // 20 if args.freeze_updates is None else args.freeze_updates
            distilled = str(self.out / owner / "stage1" / "checkpoint_last.pt")
            filled["model"].update(student=distilled, freeze_encoder_updates=freeze)
            needs.append(f"{owner}/stage1")
        if system.kd:
            teacher, needed = self.kd_teacher(seed)
            needs += needed
            filled["task"]["teacher_transducer"] = teacher
            filled["criterion"].update(kd=args.kd, kd_weight=args.kd_weight)
            # The mean over all nodes of a lattice, not their sum as of those of a path: it would drown the transcript.
            path = TABLE["students"][student]["kd"]
            filled["criterion"].update(path if args.kd == "one_best" else {"kd_mean": "node"})
            if system.unlabeled:
                needs.append(f"train_pseudo_seed{seed}")
                filled["dataset"] = {"train_subset": f"train,train_pseudo_seed{seed}"}
        recipe = read_yaml(HERE / ("stage2_kd.yaml" if system.kd else "stage2.yaml"))
        size = recipes.sized(self.out / name, int(seed), args.stage2_updates, args.stage2_lr, args.max_tokens)
        more = recipes.parse_settings(args.stage2_settings)
        changes = (read_yaml(SMALL), TABLE["stage2"], filled, size, more)
        return training_job(self.out, name, override(recipe, *changes), needs)

    def kd_teacher(self, seed: str) -> Tuple[str, List[str]]:
        """The transducer that is learned from in stage 2, and the job that trains it, if one does."""
        if self.args.kd_teacher:
            return str(self.args.kd_teacher), []
        run = f"full/{self.joint}/seed{seed}"
        return str(self.out / run / "stage2" / "checkpoint_best.pt"), [f"{run}/stage2"]

    def pseudo_job(self, seed: str, common: List[str]) -> Job:
        """Its transcripts of unlabeled audio."""
        (teacher, needs), name = self.kd_teacher(seed), f"train_pseudo_seed{seed}"
        command = [
            *("colld", "transcribe", teacher, "--manifest", str(self.data / "train_untranscribed.tsv")),
            *("--beam", str(self.args.beam), "--options", f"length_bonus={self.args.length_bonus}"),
            *("--out", str(self.data / f"{name}.tsv")),
        ]
        return Job(name, command, [*common, *needs])

    @property
    def decoding_options(self) -> List[str]:
        detokenize = "sentencepiece" if self.args.pieces else "letter"
        tokens = str(4 * self.args.max_tokens)
        return ["--post-process", detokenize, "--max-tokens", tokens]

    def ways(self, student: str) -> Dict[str, List[str]]:
        """Way of decoding -> its options. Streaming students: in chunks and, for comparison, whole utterances."""
        beam = self.args.beam
        # The most probable hypothesis is often too short, and a beam finds it where greedy search does not: the length
        # bonus makes up for that (deletions with and without: RESULTS.md).
        wider = {f"beam{beam}": ["--beam", str(beam), "--length-bonus", str(self.args.length_bonus)]}
        ways = {"greedy": ["--beam", "1"], **(wider if beam > 1 else {})}
        if student == "full":
            return ways
        chunk = f"{{'eval_chunk': '{self.args.chunk}', 'eval_left_context': '{self.args.left_context}'}}"
        chunks = {way: [*options, "--model-overrides", chunk] for way, options in ways.items()}
        full = "{'eval_chunk': 'full', 'eval_left_context': 'full'}"
        return {**chunks, "whole": ["--beam", "1", "--model-overrides", full]}


def chunks(text: str) -> str:
    """A whole number, or full."""
    return text if text == "full" else str(int(text))


def arguments(argv: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("out", type=resolved)
    for split in ("train", "dev", "test"):
        add(f"--{split}", type=manifests, required=True, help="speech-to-text manifests, comma-separated")
    add("--teachers", required=True, metavar="NAME=SPEC,...", help="SPEC: hf:DIRECTORY or fairseq:FILE.pt")
    add("--teacher-layers", default="", metavar="NAME=4+6,...", help="default: the last of every teacher")
    add("--unlabeled", type=manifests, default="", help="manifests of further audio, comma-separated")
    add("--label-minutes", type=float, help="transcripts of so many minutes of every language are used (default: all)")
    add("--systems", type=words, default="", help="comma-separated (default: all that are possible)")
    add("--students", type=words, default="full", help="full, streaming or both (default: %(default)s)")
    add("--preset", choices=sorted(PRESETS), default="conformer_10m", help="of the encoder (default: %(default)s)")
    add("--shape", metavar="LAYERSxWIDTH/FFN/HEADS", help="smaller: 6x144/576/4 (default: the preset's)")
    add("--predictor-dim", type=int, default=320, help="of the predictor and the joiner (default: %(default)s)")
    add("--pieces", type=int, help="size of a sentencepiece vocabulary (default: letters)")
    add("--stage1-updates", type=int, default=4000, help="default: %(default)s")
    add("--stage2-updates", type=int, default=8000, help="default: %(default)s")
    add("--freeze-updates", type=int, help="of a distilled encoder in stage 2 (default: a twentieth of the updates)")
    add("--stage1-lr", type=float, default=2e-3, help="default: %(default)s")
    add("--stage2-lr", type=float, default=1e-3, help="default: %(default)s")
    add("--ctc-weight", type=float, default=0.5, help="of the auxiliary CTC (default: %(default)s)")
    add("--kd-teacher", type=recipes.file, help="a transducer with the same vocabulary (default: full/sum)")
    add("--kd", choices=("one_best", "three_class", "lattice"), default="one_best", help="default: %(default)s")
    add("--kd-weight", type=float, default=0.3, help="default: %(default)s")
    add("--beam", type=int, default=4, help="of the second decoding; 1 = greedy only (default: %(default)s)")
    add(
        "--length-bonus",
        type=float,
        default=0.2,
        help="of the beam, per label, against deletions (default: %(default)s)",
    )
    add("--chunk", type=int, default=8, help="encoder frames a streaming student decodes by (default: %(default)s)")
    add(
        "--left-context",
        type=chunks,
        default="4",
        help="chunks before its own that it takes in, or full (default: %(default)s)",
    )
    add("--target-shift", type=int, default=0, help="of stage 1 of a streaming student (default: %(default)s)")
    add("--teacher-cache", default="", metavar="NAME=DIR,...", help="made before, by colld features, of all the audio")
    add("--no-cache", action="store_true", help="run the teachers in every update instead of storing their features")
    recipes.run_options(add)
    more = "GROUP.NAME=VALUE"
    add("--stage1-settings", nargs="*", default=[], metavar=more, help="of every stage 1: common.bf16=true")
    add("--stage2-settings", nargs="*", default=[], metavar=more, help="of every stage 2")
    args = parser.parse_args(argv)
    for student in args.students:
        if student not in TABLE["students"]:
            parser.error(f"--students: {student!r} is none of {', '.join(TABLE['students'])}")
    try:
        caches = all_named(args.teacher_cache, "--teacher-cache", "NAME=DIR,...")
        specs = all_named(args.teachers, "--teachers", "whisper=hf:DIRECTORY,hubert=fairseq:FILE.pt")
    except ConfigError as error:
        parser.error(str(error))
    if not specs:
        parser.error("--teachers is empty: give whisper=hf:DIRECTORY,hubert=fairseq:FILE.pt")
    args.teacher_cache = ",".join(f"{name}={Path(folder).resolve()}" for name, folder in caches.items())
    for name in specs:
        if name in TABLE["systems"]:
            parser.error(f"--teachers: {name!r} is the name of a system; choose another")
    args.teachers = ",".join(f"{name}={recipes.absolute_spec(spec)}" for name, spec in specs.items())
    return args


def main() -> None:
    args = arguments(sys.argv[1:])
    with recipes.errors_told():
        jobs, plan = Comparison(args).plan()
    run_comparison(args.out, jobs, plan, args.jobs)


if __name__ == "__main__":
    main()
