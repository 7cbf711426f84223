"""Systems side by side: the scores of every test set with intervals, and which differences are more than chance."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from colld_fairseq.errors import ConfigError
from colld_fairseq.report.decoded import Decoded, Figures
from colld_fairseq.report.experiments import Experiment, Run
from colld_fairseq.scoring.bootstrap import (
    RESAMPLES,
    SEED,
    Comparison,
    Interval,
    compare,
    interval,
    resampled_scores,
)
from colld_fairseq.scoring.measures import LOWER_IS_BETTER, MEASURES, NAMES

AVERAGES = ("mean", "all")
Samples = Dict[str, Dict[str, np.ndarray]]  # language (pair), "mean" or "all" -> measure -> [resamples]


@dataclass
class System:
    """What is compared: runs that differ in their seed only. `index`: of its color on the page."""

    index: int
    name: str
    label: str
    experiment: Experiment
    runs: List[Run]


class Cell(NamedTuple):
    """The mean over seeds in percent, their deviation where there are several, the bootstrap interval where known."""

    value: float
    deviation: Optional[float]
    interval: Optional[Interval]


@dataclass
class Entry:
    """A system in a section: its decoded test set, once per seed; cells[language][measure]."""

    system: System
    decoded: List[Decoded]
    cells: Dict[str, Dict[str, Cell]] = field(default_factory=dict)
    samples: Samples = field(default_factory=dict)


class Compared(NamedTuple):
    """`better`: whether the interval of the difference says so; None where it holds 0."""

    question: str
    system: System
    baseline: System
    measure: str
    comparison: Comparison
    better: Optional[bool]


@dataclass
class Section:
    """One test set in one way of decoding, recognition ("asr") or translation ("st").

    average: which of "mean" and "all" is the headline. names: languages (pairs), then the averages.
    not_compared: "a and b" of comparisons that were asked for, of systems with other utterances or references.
    """

    group: str
    test: str
    kind: str
    average: str
    names: List[str]
    entries: List[Entry]
    signatures: Dict[str, str]
    compared: List[Compared] = field(default_factory=list)
    not_compared: List[str] = field(default_factory=list)

    @property
    def measures(self) -> Tuple[str, str]:
        return MEASURES[self.kind]

    @property
    def languages(self) -> List[str]:
        return [name for name in self.names if name not in AVERAGES]


def all_systems(experiments: Sequence[Experiment]) -> List[System]:
    """In the order of the experiments; labels that occur in several of them also name the folder."""
    grouped: Dict[Tuple[int, str], List[Run]] = {}
    for position, experiment in enumerate(experiments):
        for run in experiment.runs:
            grouped.setdefault((position, run.system), []).append(run)
    labels = Counter(runs[0].label for runs in grouped.values())
    folders = Counter(Path(experiment.name).name for experiment in experiments)
    systems = []
    for (position, name), runs in grouped.items():
        experiment, label = experiments[position], runs[0].label
        if labels[label] > 1:
            short = Path(experiment.name).name
            label = f"{label} ({short if folders[short] == 1 and short else experiment.name})"
        systems.append(System(len(systems), name, label, experiment, runs))
    return systems


def _baseline(systems: Sequence[System], name: str) -> System:
    """The one of that label, or else of that name. Raises ConfigError for none, or several."""
    of_label = [one for one in systems if one.label == name]
    chosen = of_label or [one for one in systems if one.name == name]
    if len(chosen) != 1:
        known = ", ".join(repr(one.label) for one in chosen or systems)
        problem = "could be each of" if chosen else "is none of the systems, which are"
        raise ConfigError(f"--baseline {name!r}: {problem} {known}")
    return chosen[0]


def wanted_comparisons(systems: Sequence[System], baseline: str = "") -> List[Tuple[str, System, System]]:
    """(question, system, baseline): all beside `baseline`, a label or a system's name, where it is given; else what the
    recipes ask, and a system of one experiment beside its namesake in the first; else all beside the first.

    Raises ConfigError: no such baseline, or several.
    """
    chosen = _baseline(systems, baseline) if baseline else None
    if chosen is not None:
        return [("", one, chosen) for one in systems if one is not chosen]
    wanted = []
    for system in systems:
        for question, name, other in system.experiment.comparisons:
            beside = (one for one in systems if one.experiment is system.experiment and one.name == other)
            if name == system.name:
                wanted += [(question, system, one) for one in beside if one is not system]
        namesakes = (one for one in systems if one.name == system.name and one.experiment is not system.experiment)
        first = next(namesakes, None)
        if first is not None and first.index < system.index:
            wanted.append(("", system, first))
    return wanted or [("", one, systems[0]) for one in systems[1:]]


def build_sections(
    systems: Sequence[System], comparisons: Sequence[Tuple[str, System, System]], resamples: int = RESAMPLES
) -> List[Section]:
    """A section for each kind of each test set that somebody decoded, in the order in which they are met."""
    collected: Dict[Tuple[str, str, str], Dict[int, Entry]] = {}
    for system in systems:
        for decoded in (one for run in system.runs for one in run.decoded):
            for kind in decoded.kinds:
                entries = collected.setdefault((decoded.group, decoded.test, kind), {})
                entries.setdefault(system.index, Entry(system, [])).decoded.append(decoded)
    return [
        _section(*key, list(entries.values()), comparisons, resamples)
        for key, entries in collected.items()
        if all(entries.values())
    ]


def _section(
    group: str,
    test: str,
    kind: str,
    entries: List[Entry],
    comparisons: Sequence[Tuple[str, System, System]],
    resamples: int,
) -> Section:
    for entry in entries:
        entry.samples = _samples(entry.decoded, kind, resamples)
        entry.cells = _cells([decoded.figures(kind) for decoded in entry.decoded], entry.samples, kind)
    present = {name for entry in entries for name in entry.cells}
    languages = sorted(present - set(AVERAGES))
    averages = [name for name in AVERAGES if name in present and (len(languages) > 1 or name == "all")]
    wanted = [entry.system.experiment.average for entry in entries if entry.system.experiment.average in averages]
    average = next(iter(wanted), averages[-1] if averages else languages[0])
    signatures: Dict[str, str] = {}
    for entry in entries:
        signatures.update(_signatures(entry.decoded[0], kind))
    section = Section(group, test, kind, average, [*languages, *averages], entries, signatures)
    _compare(section, comparisons)
    return section


def _signatures(decoded: Decoded, kind: str) -> Dict[str, str]:
    """Of the measures that are shown: `BLEU (de, en)`, `WER, CER`, ..."""
    shown = {NAMES[measure] for measure in MEASURES[kind]}
    return {name: one for name, one in decoded.scores["signatures"].items() if shown & set(re.findall(r"\w+", name))}


def _samples(decoded: List[Decoded], kind: str, resamples: int) -> Samples:
    """Scores of the draws of utterances: of each language its own, of the mean their means; {} where utterances are not
    known of every seed."""
    rows = [one.rows(kind) for one in decoded]
    if not all(rows) or len({tuple(_references(one, kind)) for one in decoded}) != 1:
        return {}
    statistics = np.stack([one.statistics[of_kind] for one, of_kind in zip(decoded, rows, strict=True)])
    pairs = np.array([decoded[0].utterances[row].pair for row in rows[0]])
    names, measures = sorted(set(pairs.tolist())), MEASURES[kind]
    samples = {"all": resampled_scores(statistics, measures, resamples, SEED)}
    for index, name in enumerate(names, start=1):
        if len(names) == 1:
            samples[name] = samples["all"]
        else:  # languages are drawn independently of each other
            samples[name] = resampled_scores(statistics[:, pairs == name], measures, resamples, SEED + index)
    samples["mean"] = {one: np.mean([samples[name][one] for name in names], axis=0) for one in measures}
    return samples


def _references(decoded: Decoded, kind: str) -> List[Tuple[str, str]]:
    return [(decoded.utterances[row].id, decoded.utterances[row].reference) for row in decoded.rows(kind)]


def _cells(seeds: List[Figures], samples: Samples, kind: str) -> Dict[str, Dict[str, Cell]]:
    cells: Dict[str, Dict[str, Cell]] = {}
    for name in seeds[0]:
        for measure in MEASURES[kind]:
            values = [figures[name][measure] for figures in seeds if name in figures]
            if len(values) < len(seeds) or None in values:
                continue
            deviation = stdev(values) if len(values) > 1 else None
            known = samples.get(name, {}).get(measure)
            bounds = interval(known) if known is not None and np.isfinite(known).any() else None
            cells.setdefault(name, {})[measure] = Cell(fmean(values), deviation, bounds)
    return cells


def same_utterances(a: Entry, b: Entry, kind: str) -> bool:
    """Whether two systems decoded the same rows with the same references."""
    return _references(a.decoded[0], kind) == _references(b.decoded[0], kind)


def _compare(section: Section, comparisons: Sequence[Tuple[str, System, System]]) -> None:
    """Fills in `compared` and `not_compared`, of systems whose utterances are known."""
    entries = {entry.system.index: entry for entry in section.entries if entry.samples}
    for question, system, baseline in comparisons:
        a, b = entries.get(system.index), entries.get(baseline.index)
        if a is None or b is None:
            continue
        if not same_utterances(a, b, section.kind):
            section.not_compared.append(f"{system.label} and {baseline.label}")
            continue
        for measure in section.measures:
            cells = [one.cells.get(section.average, {}).get(measure) for one in (a, b)]
            if None in cells:
                continue
            draws = [one.samples[section.average][measure] for one in (a, b)]
            result = compare(*draws, cells[0].value - cells[1].value)
            low, high = result.interval
            better = None if low <= 0 <= high else (high < 0) == LOWER_IS_BETTER[measure]
            section.compared.append(Compared(question, system, baseline, measure, result, better))
