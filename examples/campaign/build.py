"""A plan as jobs. What is equal is one job: a run's name is a digest of its configuration, whoever needs it."""

import hashlib
import json
import sys
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import split_paths
from colld_fairseq.teachers import describe_teacher
from examples.campaign.plan import Campaign, Claim, Data, Stage, System, kind_of
from examples.driver import recipes
from examples.driver.jobs import Job
from examples.driver.recipes import SMALL, Config, override, read_yaml

NGRAM_ORDER = "3"  # a few hours of transcripts have no use for more
TEST_SHARE = 0.1  # of a corpus whose manifests are not there yet
DECODING = "decoding"
LAST = "last"  # of `layers`: the teacher's deepest
TEACHER, MANIFEST = "teacher:", "data:"  # before a name, in `set` of a stage
PSEUDO_OPTIONS = ("--beam", "4", "--options", "length_bonus=0.2")  # without the bonus a beam deletes (RESULTS.md)


@dataclass(frozen=True)
class Inputs:
    """What the command line gives. Paths are absolute.

    picks: "CLAIM/SYSTEM" -> index of the row of its choices; speeds: "CLAIM/STAGE" -> as measured here.
    """

    teachers: Dict[str, str]
    corpora: Dict[str, str]
    unlabeled: Dict[str, str]
    ngram_lm: str = ""
    bfloat16: bool = False
    picks: Dict[str, int] = field(default_factory=dict)
    speeds: Dict[str, float] = field(default_factory=dict)


class Run(NamedTuple):
    """A trained system: names of its jobs by stage, the job that trains its last stage, and its checkpoints."""

    stages: Dict[str, str]
    last: str

    def checkpoint(self, out: Path, which: str) -> str:
        return str(out / self.last / f"checkpoint_{which}.pt")


class Work(NamedTuple):
    """What a job takes: seconds of audio it goes through, and how many of them a core does in a second."""

    seconds: float
    speed: float

    @property
    def core_hours(self) -> float:
        return self.seconds / self.speed / 3600


class Builder:
    """Makes the jobs of claims. `jobs` are all so far, by name; `work` says what those take that take long."""

    def __init__(self, campaign: Campaign, out: Path, inputs: Inputs) -> None:
        self.campaign, self.out, self.inputs = campaign, out, inputs
        self.jobs: Dict[str, Job] = {}
        self.work: Dict[str, Work] = {}
        self.runs: Dict[Tuple[str, str, int], Run] = {}

    def add(self, job: Job, work: Optional[Work] = None) -> str:
        """The job's name; a job that is there already is shared."""
        known = self.jobs.setdefault(job.name, job)
        assert (known.command, known.config) == (job.command, job.config), f"two jobs have the name {job.name}"
        if work is not None:
            self.work[job.name] = work
        return job.name

    def needed_by(self, names: Sequence[str]) -> List[str]:
        """These jobs and all that they wait for, in the order they were added."""
        needed, todo = set(), list(names)
        while todo:
            name = todo.pop()
            if name not in needed:
                needed.add(name)
                todo += self.jobs[name].needs
        return [name for name in self.jobs if name in needed]

    # -- data ----------------------------------------------------------------------------------------------------------
    def data(self, name: str) -> Path:
        return self.out / "data" / name

    def prepare(self, name: str) -> List[str]:
        """The jobs that make manifests and vocabulary."""
        data, needs = self.campaign.data[name], []
        for corpus in data.corpora:
            if self.campaign.corpora[corpus].prepared and corpus not in self.inputs.corpora:
                command = [sys.executable, "-m", "examples.quickstart.prepare", str(self.out / "corpora" / corpus)]
                needs.append(self.add(Job(f"corpora/{corpus}", command)))
        folder, commas = self.data(name), ",".join
        command = [sys.executable, "-m", "examples.campaign.prepare", str(folder)]
        command += ["--corpora", commas(str(self.corpus(corpus)) for corpus in data.corpora)]
        command += ["--unlabeled", commas(self.unlabeled(data))] if data.unlabeled else []
        for option, values in (("--label-minutes", data.label_minutes), ("--audio-hours", data.audio_hours)):
            command += [option, commas(f"{value:g}" for value in values)] if values else []
        prepared = self.add(Job(f"data/{name}", command, needs))
        manifests = commas(str(folder / f"{one}.tsv") for one in data.vocab_from.split(","))
        vocab = ["colld", "vocab", "--manifest", manifests, *data.vocab, "--out", str(folder / "vocab")]
        return [prepared, self.add(Job(f"data/{name}/vocab", vocab, [prepared]))]

    def corpus(self, name: str) -> Path:
        return Path(self.inputs.corpora.get(name) or self.out / "corpora" / name)

    def unlabeled(self, data: Data) -> List[str]:
        return [self.inputs.unlabeled[name] for name in data.unlabeled]

    def cmvn(self, name: str) -> str:
        folder = self.data(name)
        job = recipes.cmvn_job(f"data/{name}/cmvn", folder / "audio.tsv", folder / "cmvn.npz", [f"data/{name}"])
        return self.add(job)

    def words(self, name: str) -> Tuple[str, List[str]]:
        """The n-gram model that recognition is also decoded with, and the job that makes it of the training
        transcripts, if one does."""
        if self.inputs.ngram_lm:
            return self.inputs.ngram_lm, []
        needs, folder = self.prepare(name), self.data(name)
        command = ["colld", "ngram", "--vocab", str(folder / "vocab"), "--manifest", str(folder / "train_asr.tsv")]
        command += ["--order", NGRAM_ORDER, "--out", str(folder / "words.arpa")]
        return str(folder / "words.arpa"), [self.add(Job(f"data/{name}/words", command, needs))]

    def features(self, claim: Claim, teacher: str, kind: str) -> str:
        """The job that caches a teacher's features, in the folder of its name; "" where the teacher runs along."""
        layers = self.layers(claim, teacher)
        if not layers:
            return ""
        name = f"features/{claim.data}/{teacher}_{layers.replace(',', '-')}{'' if kind == 'layer' else f'_{kind}'}"
        audio = ",".join(str(self.data(claim.data) / f"{one}.tsv") for one in ("audio", "audio_dev"))
        command = ["colld", "features", "--manifest", audio, "--teacher", self.inputs.teachers[teacher]]
        command += ["--layers", layers, *(() if kind == "layer" else ("--kind", kind)), "--out", str(self.out / name)]
        seconds = self.audio_seconds(claim.data)
        return self.add(Job(name, command, [f"data/{claim.data}"]), Work(seconds, self.campaign.speeds["features"]))

    def layers(self, claim: Claim, teacher: str) -> str:
        """Those that are cached: "2,4,6"; "" = none."""
        layers = {**self.campaign.layers, **claim.layers}.get(teacher, "")
        return str(describe_teacher(self.inputs.teachers[teacher]).num_layers) if layers == LAST else layers

    def codes(self, claim: Claim, name: str, kind: str) -> str:
        """The job that finds code classes, in the file of its name."""
        codes = claim.codes[name]
        cache = self.features(claim, codes.teacher, kind)
        job = f"codes/{claim.data}/{codes.teacher}_{codes.layer}_{codes.clusters}"
        command = ["colld", "cluster", "--layer", str(codes.layer), "--num-clusters", str(codes.clusters)]
        command += [
            "--manifest",
            str(self.data(claim.data) / "audio.tsv"),
            "--teacher",
            self.inputs.teachers[codes.teacher],
        ]
        command += ["--cache", str(self.out / cache)] if cache else []
        needs = [f"data/{claim.data}", *([cache] if cache else [])]
        return self.add(Job(job, [*command, "--out", str(self.out / f"{job}.safetensors")], needs))

    def audio_seconds(self, name: str) -> float:
        """Of all audio of a data set; of what is not there yet as the plan says."""
        data = self.campaign.data[name]
        labeled = sum(self.manifest_seconds(corpus, "train_asr") for corpus in data.corpora)
        return labeled + sum(seconds_of(path) for paths in self.unlabeled(data) for path in split_paths(paths))

    def manifest_seconds(self, corpus: str, split: str) -> float:
        folder = self.corpus(corpus)
        paths = [folder / f"{split}.tsv", folder / f"{split.partition('_')[0]}.tsv"]
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            return seconds_of(str(path))
        share = 1.0 if split.startswith("train") else TEST_SHARE
        return 3600 * self.campaign.corpora[corpus].hours * share

    # -- training ------------------------------------------------------------------------------------------------------
    def run(self, claim: Claim, system: System, seed: int, share: float = 1.0) -> Run:
        """The jobs that train a system. share: of its updates, for a look at how a choice does."""
        names: Dict[str, str] = {}
        previous = ""
        for index, stage in enumerate(system.stages):
            config, needs = self.config(claim, system, stage, seed, previous, first=index == 0, share=share)
            name = f"{stage.name}/{digest(self.out, config)}"
            config = override(config, {"checkpoint": {"save_dir": str(self.out / name)}})
            work = Work(config["optimization"]["max_update"] * self.batch_seconds(config), self.speed(claim, stage))
            previous = self.add(recipes.training_job(self.out, name, config, needs), work)
            names[stage.name] = previous
        return Run(names, previous)

    def batch_seconds(self, config: Config) -> float:
        return config["dataset"]["max_tokens"] / SAMPLE_RATE * config["optimization"].get("update_freq", [1])[0]

    def speed(self, claim: Claim, stage: Stage) -> float:
        kind = kind_of(read_once(claim.path.parent / stage.recipe))
        return self.inputs.speeds.get(f"{claim.name}/{stage.name}") or stage.speed or self.campaign.speeds[kind]

    def config(
        self, claim: Claim, system: System, stage: Stage, seed: int, previous: str, first: bool, share: float = 1.0
    ) -> Tuple[Config, List[str]]:
        """What fairseq-hydra-train reads, but for the folder of checkpoints, and the jobs it waits for.

        previous: the job that trained the stage before.
        """
        recipe = read_once(claim.path.parent / stage.recipe)
        fill = {"distillation": self.distillation, "recognition": self.recognition}[kind_of(recipe)]
        needs = self.prepare(claim.data)
        filled = {
            "task": {"data": str(self.data(claim.data))},
            "dataset": {"train_subset": stage.subset, "valid_subset": stage.valid},
            "model": dict(system.student) if first else {},
        }
        own, more = fill(claim, stage, seed, previous)
        needs += more + ([previous] if previous else [])
        if first and claim.cmvn and system.cmvn:
            needs.append(self.cmvn(claim.data))
            filled["task"]["cmvn"] = str(self.data(claim.data) / "cmvn.npz")
        updates = max(1, round(share * stage.updates))
        max_tokens = self.campaign.data[claim.data].max_tokens or self.campaign.max_tokens
        size = recipes.sized(self.out, seed, updates, stage.rate, max_tokens)
        precision = {"common": {"bf16": self.inputs.bfloat16 and stage.bfloat16}}
        given = self.named_in(claim, stage.set)
        changes = (read_once(SMALL), self.campaign.optimizer, filled, size, precision, given, own)
        return override(recipe, *changes), list(dict.fromkeys(needs))

    def named_in(self, claim: Claim, value: Any) -> Any:
        """`teacher:NAME` becomes that teacher's spec, and `data:NAME` the path of a manifest of the claim's data."""
        if isinstance(value, dict):
            return {key: self.named_in(claim, one) for key, one in value.items()}
        if isinstance(value, str) and value.startswith(TEACHER):
            return self.inputs.teachers[value.removeprefix(TEACHER)]
        if isinstance(value, str) and value.startswith(MANIFEST):
            return str(self.data(claim.data) / f"{value.removeprefix(MANIFEST)}.tsv")
        return value

    def distillation(self, claim: Claim, stage: Stage, seed: int, previous: str) -> Tuple[Config, List[str]]:
        if not stage.teachers:
            raise ConfigError(f"{claim.path}: stages.{stage.name}: a distillation needs `teachers`")
        kind = stage.set.get("task", {}).get("teacher_kind", "layer")
        caches = {name: self.features(claim, name, kind) for name in stage.teachers}
        specs = {name: self.inputs.teachers[name] for name in stage.teachers}
        folders = {name: str(self.out / job) for name, job in caches.items() if job}
        task = {"teacher": named(specs), "teacher_cache": named(folders) if len(specs) == 1 else pairs(folders)}
        needs = [job for job in caches.values() if job]
        if stage.codes:
            job = self.codes(claim, stage.codes, kind)
            needs.append(job)
            task["teacher_codes"] = str(self.out / f"{job}.safetensors")
        model = {"init_from": f"colld:{self.out / previous / 'checkpoint_last.pt'}"} if previous else {}
        return {"task": task, "model": model}, needs

    def recognition(self, claim: Claim, stage: Stage, seed: int, previous: str) -> Tuple[Config, List[str]]:
        pretrained = stage.set.get("model", {}).get("decoder_from")
        task = {"vocab": "" if pretrained else str(self.data(claim.data) / "vocab")}
        config: Config = {"task": task}
        if previous:
            config["model"] = {"student": str(self.out / previous / "checkpoint_last.pt")}
        else:
            config["model"] = {"student": "", "freeze_encoder_updates": 0}
        needs = []
        if stage.kd_teacher:
            teacher = self.system(claim, stage.kd_teacher, seed)
            task["teacher_transducer"] = teacher.checkpoint(self.out, "best")
            needs.append(teacher.last)
        if stage.pseudo_labels:
            job = self.pseudo_labels(claim, stage, seed)
            needs.append(job)
            config["dataset"] = {"train_subset": f"{stage.subset},{Path(job).name}"}
        return config, needs

    def pseudo_labels(self, claim: Claim, stage: Stage, seed: int) -> str:
        """The job that transcribes what `stage.subset` has no transcripts of, to the manifest of its name."""
        teacher, folder = self.system(claim, stage.pseudo_labels, seed), self.data(claim.data)
        name = f"data/{claim.data}/pseudo_{teacher.last.replace('/', '_')}"
        manifest = folder / f"{stage.subset.replace('train', 'untranscribed').replace('_asr', '')}.tsv"
        command = ["colld", "transcribe", teacher.checkpoint(self.out, "best"), "--manifest", str(manifest)]
        command += [*PSEUDO_OPTIONS, "--out", str(self.out / f"{name}.tsv")]
        work = Work(self.audio_seconds(claim.data), self.campaign.speeds[DECODING])
        return self.add(Job(name, command, [*self.prepare(claim.data), teacher.last]), work)

    # -- systems -------------------------------------------------------------------------------------------------------
    def system(self, claim: Claim, name: str, seed: int) -> Run:
        """The jobs that train a system of a claim, as its choices were picked."""
        key = (claim.name, name, seed)
        if key not in self.runs:
            self.runs[key] = self.run(claim, self.picked(claim, claim.systems[name]), seed)
        return self.runs[key]

    def picked(self, claim: Claim, system: System) -> System:
        rows = choices_of(claim, system)
        return chosen(system, rows[self.inputs.picks.get(f"{claim.name}/{system.name}", 0)])

    def decode(self, claim: Claim, system: System, run: Run) -> Dict[str, str]:
        """Test -> the job that scores it. Scores lie in OUT/LAST/TEST.json, hypotheses in the folder OUT/LAST/TEST."""
        scored = {}
        for test, how in system.tests.items():
            lm, needs = self.words(claim.data) if how.ngram_lm else ("", [])
            options = [*how.options, *(["--ngram-lm", lm] if lm else [])]
            pretrained = system.stages[-1].set.get("model", {}).get("decoder_from")
            decode, score = recipes.decoding_jobs(
                self.out, f"{run.last}/{test}", self.data(claim.data), how.subset,
                Path(run.checkpoint(self.out, "best")), options, [run.last, *needs], how.scoring,
                vocab="" if pretrained else f"data/{claim.data}/vocab",
            )  # fmt: skip
            corpora = self.campaign.data[claim.data].corpora
            seconds = sum(self.manifest_seconds(corpus, how.subset) for corpus in corpora)
            self.add(decode, Work(seconds, self.campaign.speeds[DECODING]))
            scored[test] = self.add(score)
        return scored


# -- choices ----------------------------------------------------------------------------------------------------------


def choices_of(claim: Claim, system: System) -> List[Dict[str, Config]]:
    """Rows of changes that a system is tuned over, the claim's crossed with its own; those that change nothing else
    than another row does, as the rate of a stage that it does not have, once."""
    rows = []
    for common in claim.choices or ({},):
        for own in system.choices or ({},):
            row = {stage.name: override(common.get(stage.name, {}), own.get(stage.name, {})) for stage in system.stages}
            if row not in rows:
                rows.append(row)
    return rows


def chosen(system: System, row: Dict[str, Config]) -> System:
    """The system with the changes of a row."""

    def change(stage: Stage) -> Stage:
        changes = dict(row.get(stage.name, {}))
        if "set" in changes:
            changes["set"] = override(stage.set, changes["set"])
        return replace(stage, **changes)

    return replace(system, stages=tuple(map(change, system.stages)))


# -- small things -----------------------------------------------------------------------------------------------------


@cache
def read_once(path: Path) -> Config:
    """A YAML file; to be read only: everyone gets the same."""
    return read_yaml(path)


def digest(out: Path, config: Config) -> str:
    """Of what is trained, wherever `out` lies."""
    text = json.dumps(config, sort_keys=True).replace(str(out), "OUT")
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def named(values: Dict[str, str]) -> str:
    """A single value as it is, several as NAME=VALUE,NAME=VALUE."""
    return next(iter(values.values()), "") if len(values) <= 1 else pairs(values)


def pairs(values: Dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in values.items())


def teachers_in(stage: Stage) -> List[str]:
    """Names of the teachers that a stage needs: to learn from, or to start from."""
    groups = (group for group in stage.set.values() if isinstance(group, dict))
    values = (value for group in groups for value in group.values() if isinstance(value, str))
    return [*stage.teachers, *(value.removeprefix(TEACHER) for value in values if value.startswith(TEACHER))]


@cache
def seconds_of(manifest: str) -> float:
    """Audio of a manifest."""
    return float(read_manifest(manifest).n_samples.sum()) / SAMPLE_RATE
