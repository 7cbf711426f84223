"""What an experiment left in its folder: systems with their test sets, logs and sizes.

A folder is the output of a recipe (it has a plan.json, which says where everything lies; the campaign's has a
NAME.plan.json of each claim, which is given by itself), or a plain one: then it is one system, of which everything
below that fairseq-generate, `colld score --json`, `colld profile --json` and fairseq-train --log-format json wrote is
taken.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from colld_fairseq.errors import ColldError
from colld_fairseq.report.decoded import Decoded, Manifests, read_decoded, read_scores, subset_of
from colld_fairseq.report.files import SIMILARITY, Problems, begins_with, files_below, inside, is_figure, read_json
from colld_fairseq.report.training_log import TrainingLog, read_log

PLAN = "plan.json"


class Encoder(NamedTuple):
    """As `colld profile` measured it; rtf: processing time per second of audio, one utterance at a time."""

    name: str
    source: str
    parameters: int
    mb_float32: float
    gmacs_per_10s: Optional[float]
    rtf: Optional[float]


class Similarity(NamedTuple):
    """A table of `colld similarity`: values[measure][row][column]."""

    name: str
    row_model: str
    column_model: str
    row_layers: List[str]
    column_layers: List[str]
    values: Dict[str, List[List[float]]]


@dataclass
class Stage:
    """One training run; `minutes` of wall clock."""

    path: Path
    log: TrainingLog
    minutes: float


@dataclass
class Run:
    """A system trained with one seed. parameters: of the whole model; encoder: what was measured of its encoder."""

    system: str
    label: str
    seed: int
    decoded: List[Decoded] = field(default_factory=list)
    stages: Dict[str, Stage] = field(default_factory=dict)
    parameters: Optional[int] = None
    encoder: Optional[Encoder] = None


@dataclass
class Experiment:
    """comparisons: (question, system, baseline). average: "mean" (every language alike) or "all" (every utterance)."""

    name: str
    title: str
    average: str = "all"
    notes: List[str] = field(default_factory=list)
    runs: List[Run] = field(default_factory=list)
    comparisons: List[Tuple[str, str, str]] = field(default_factory=list)
    settings: Dict[str, Any] = field(default_factory=dict)
    machine: str = ""
    encoders: List[Encoder] = field(default_factory=list)
    similarities: List[Similarity] = field(default_factory=list)


def read_experiment(
    folder: Path, problems: Problems, manifests: Sequence[str] = (), audio_root: Optional[str] = None
) -> Experiment:
    """What is there; what is not, or cannot be read, goes to `problems`. folder: or a plan in it.

    Raises ColldError: no folder, a plan.json that is none, nothing that can be reported; several plans.
    """
    plan = folder if folder.name.endswith(PLAN) else folder / PLAN
    folder = plan.parent
    if not folder.is_dir():
        raise ColldError(f"{folder}: is no folder; give the output folder of a recipe, or one of your runs")
    others = sorted(folder.glob(f"*.{PLAN}"))
    if others and not plan.is_file():
        raise ColldError(f"{folder}: holds the plans of claims; give the plan of one: {', '.join(map(str, others))}")
    files = files_below(folder)
    sources = Manifests(manifests, audio_root, files)
    given = (folder, files, sources, problems)
    experiment = (_Recipe(*given, plan) if plan.is_file() else _Plain(*given)).experiment()
    tables = [path for path in files if path.suffix == ".tsv" and begins_with(path, SIMILARITY)]
    similarities = (problems.attempt(lambda: read_similarity(path, folder)) for path in tables)
    experiment.similarities = [one for one in similarities if one]
    if not (experiment.runs or experiment.similarities):
        raise ColldError(
            f"{folder}: has no {PLAN} of a recipe, no generate-*.txt, no file of `colld score --json` and no training "
            "log (--log-format json); give a folder that has"
        )
    return experiment


class _Reader:
    """A folder, its files and where manifests come from."""

    def __init__(self, folder: Path, files: List[Path], manifests: Manifests, problems: Problems):
        self.folder, self.files, self.manifests, self.problems = folder, files, manifests, problems

    def profile(self, path: Path) -> Tuple[str, List[Encoder]]:
        return self.problems.attempt(lambda: read_profile(path)) or ("", [])


class _Recipe(_Reader):
    """The output folder of a recipe, and its plan."""

    def __init__(self, folder: Path, files: List[Path], manifests: Manifests, problems: Problems, plan: Path):
        super().__init__(folder, files, manifests, problems)
        self.plan = plan

    def experiment(self) -> Experiment:
        path = self.plan
        plan = read_json(path)
        try:
            experiment = Experiment(
                str(self.folder),
                str(plan["title"]),
                str(plan["average"]),
                [str(note) for note in plan["notes"]],
                settings=dict(plan["settings"]),
            )
            names = plan["encoders"] or {}
            if plan["encoders"] is not None:  # else they were not profiled
                experiment.machine, encoders = self.profile(self.folder / "profile.json")
                experiment.encoders = [_named(one, names) for one in encoders]
            for note in (one for one in self.files if one.suffix == ".failed"):
                self.problems.add(f"{note.with_suffix('.log')}: the job failed")
            sizes = self._sizes()
            runs: Dict[Tuple[str, int], Run] = {}
            for result in plan["results"]:
                run = runs.setdefault(
                    (result["system"], result["seed"]), Run(str(result["system"]), str(result["label"]), result["seed"])
                )
                run.parameters = sizes.get(result["checkpoint"], run.parameters)
                run.encoder = run.encoder or _encoder_of(result, names, experiment.encoders)
                self._add_stages(run, result)
                run.decoded += filter(None, [self._decoded(name, result["group"]) for name in result["scores"]])
            experiment.runs = list(runs.values())
            experiment.comparisons = [
                (str(question), system, baseline)
                for question, system, baselines in plan["comparisons"]
                for baseline in baselines
            ]
            return experiment
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ColldError):
                raise
            raise ColldError(f"{path}: is not what a recipe writes (lacks {error}); run the recipe again") from error

    def _decoded(self, name: str, group: str) -> Optional[Decoded]:
        path = inside(self.folder, name)
        scores = self.problems.attempt(lambda: read_scores(path))
        outputs = sorted(path.with_suffix("").glob("generate-*.txt"))
        if scores is None:
            return None
        if not outputs:
            self.problems.add(f"{path.with_suffix('')}: has no generate-*.txt; there are no intervals of {path.name}")
            return Decoded(group, path.stem, scores)
        read = self.problems.attempt(lambda: read_decoded(outputs[0], {path: scores}, self.manifests, group))
        if read is not None and read[0] is None:
            self.problems.add(
                f"{path}: is not the score of {outputs[0]} with its manifest; there are no intervals and no utterances"
                " of it: score it again with `colld score --json`, or name its manifest with --manifest"
            )
        return read[1] if read is not None and read[0] is not None else Decoded(group, subset_of(outputs[0]), scores)

    def _add_stages(self, run: Run, result: Dict[str, Any]) -> None:
        """Stages of the same name of several groups are different runs of training."""
        for stage, name in result["logs"].items():
            path = inside(self.folder, name)
            if stage in run.stages and run.stages[stage].path != path:
                stage = f"{stage} ({result['group']})"
            log = None if stage in run.stages else self.problems.attempt(lambda: read_log(path))
            if log is not None:
                of_job = self.problems.attempt(lambda: _job_seconds(path)) or 0.0
                run.stages[stage] = Stage(path, log, max(log.seconds, of_job) / 60)

    def _sizes(self) -> Dict[str, int]:
        path = self.folder / "report.json"
        return (self.problems.attempt(lambda: _counted(path)) if path.is_file() else None) or {}


class _Plain(_Reader):
    """A folder of one system, or of several decodings of its test sets."""

    def experiment(self) -> Experiment:
        experiment = Experiment(str(self.folder), self.folder.resolve().name)
        for path in self.files:
            if path.suffix == ".json" and begins_with(path, '"machine"'):
                machine, encoders = self.profile(path)
                experiment.machine = experiment.machine or machine
                experiment.encoders += encoders
        students = [one for one in experiment.encoders if not one.source.startswith(("hf:", "fairseq:"))]
        for run in self._runs(experiment.title, self._decoded()):
            run.encoder = next(iter(students), None)
            experiment.runs.append(run)
        stages = self._stages()
        if stages and not experiment.runs:
            experiment.runs = [Run(experiment.title, experiment.title, 1)]
        if stages:
            experiment.runs[0].stages = stages
        return experiment

    def _decoded(self) -> List[Tuple[Path, Decoded]]:
        """Every test set, and the file that it was read from."""
        attempt = self.problems.attempt
        tables = [path for path in self.files if path.suffix == ".json" and begins_with(path, '"pairs"')]
        scores = {path: content for path in tables if (content := attempt(lambda: read_scores(path)))}
        decoded, taken = [], set()
        for path in self.files:
            if path.name.startswith("generate-") and path.suffix == ".txt":
                read = attempt(lambda: read_decoded(path, scores, self.manifests, ""))
                if read is not None:
                    taken.add(read[0])
                    decoded.append((path, read[1]))
        return decoded + [(path, Decoded("", path.stem, one)) for path, one in scores.items() if path not in taken]

    def _runs(self, name: str, decoded: List[Tuple[Path, Decoded]]) -> List[Run]:
        """One; where a test set was decoded several times, one of each folder, as they are systems to compare."""
        runs: Dict[str, Run] = {}
        several = len({one.test for _, one in decoded}) < len(decoded)
        for path, one in decoded:
            below = path.parent.relative_to(self.folder)
            label = f"{name}: {below}" if several and below.name else name
            runs.setdefault(label, Run(label, label, 1)).decoded.append(one)
        return list(runs.values())

    def _stages(self) -> Dict[str, Stage]:
        """Every training log once: fairseq-hydra-train writes a copy of what it prints."""
        stages: Dict[str, Stage] = {}
        for path in (one for one in self.files if one.suffix == ".log"):
            try:
                log = read_log(path)
            except ColldError:
                continue  # some other program's
            if not any(stage.log.training == log.training for stage in stages.values()):
                stages[str(path.relative_to(self.folder).with_suffix(""))] = Stage(path, log, log.seconds / 60)
        return stages


def _counted(path: Path) -> Dict[str, int]:
    """Parameters of whole models, which the recipe's own report counted: checkpoint -> parameters; the campaign's is
    of several claims. ColldError for another file."""
    content = read_json(path)
    try:
        results = [one for part in content.get("claims", [content]) for one in part["results"]]
        counted = [(one["checkpoint"], one.get("parameters")) for one in results]
        return {checkpoint: count for checkpoint, count in counted if isinstance(count, int)}
    except (KeyError, TypeError, AttributeError) as error:
        raise ColldError(f"{path}: is no report of a recipe ({error!r}); run the recipe again") from error


def _job_seconds(log: Path) -> float:
    """How long the job of a log took, 0 where it is not finished: fairseq's own clock starts anew with each start.
    Raises ColldError."""
    done = log.with_suffix(".done")
    note = read_json(done) if done.is_file() else {"seconds": 0.0}
    if not isinstance(note, dict) or not is_figure(note.get("seconds")):
        raise ColldError(f"{done}: does not say how many seconds its job took; run the recipe again without it")
    return float(note["seconds"])


_SIZES = ("parameters", "mb_float32", "gmacs_per_10s")


def read_profile(path: Path) -> Tuple[str, List[Encoder]]:
    """The machine in words, and the encoders, of what `colld profile --json` wrote. Raises ColldError."""
    content = read_json(path)
    try:
        machine = content["machine"]
        words = f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}"
        sources = [str(one["source"]) for one in content["models"]]
        encoders = []
        for source, one in zip(sources, content["models"]):
            name = source if sources.count(source) == 1 else f"{source} ({one['role']})"
            encoders.append(Encoder(name, source, *(one[key] for key in _SIZES), one["speed"][0]["rtf"]))
        if not all(is_figure(value) for one in encoders for value in one[2:] if value is not None):
            raise TypeError("figures")
        threads = f"{content['threads']} thread{'' if content['threads'] == 1 else 's'}"
        return f"{words}; real-time factors with {threads}", encoders
    except (KeyError, TypeError, IndexError) as error:
        raise ColldError(f"{path}: lacks {error}; write it with colld profile --json") from error


def _named(encoder: Encoder, names: Dict[str, str]) -> Encoder:
    """By the names of a plan: name -> source, relative to the folder."""
    sources = ((name, source) for name, source in names.items())
    same = (name for name, source in sources if encoder.source == source or encoder.source.endswith(f"/{source}"))
    return encoder._replace(name=next(same, encoder.name))


def _encoder_of(result: Dict[str, Any], names: Dict[str, str], encoders: List[Encoder]) -> Optional[Encoder]:
    """The measured encoder of a result: of its checkpoint, or of its system's name (a teacher has no checkpoint)."""
    shape = result["system"].split("/")[0]
    own = [name for name, source in names.items() if source == result["checkpoint"]] + [result["system"], shape]
    return next((one for name in own for one in encoders if one.name == name), None)


def read_similarity(path: Path, folder: Path) -> Similarity:
    """Raises ColldError: not a table of `colld similarity`, or one that is not complete."""
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
        row_layers = list(dict.fromkeys(row["row_layer"] for row in rows))
        column_layers = list(dict.fromkeys(row["column_layer"] for row in rows))
        cells = {(row["row_layer"], row["column_layer"]): row for row in rows}
        values = {
            measure: [[min(1.0, max(0.0, float(cells[i, j][measure]))) for j in column_layers] for i in row_layers]
            for measure in ("cka", "cca")
        }
        name = str(path.relative_to(folder).with_suffix(""))
        models = rows[0]["row_model"], rows[0]["column_model"]
        return Similarity(name, *models, row_layers, column_layers, values)
    except (OSError, KeyError, IndexError, TypeError, ValueError, csv.Error) as error:
        raise ColldError(f"{path}: is no complete table of `colld similarity` ({error}); write it again") from error
