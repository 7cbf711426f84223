"""Which charts the page has, and what stands in them."""

import math
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from markupsafe import Markup

from colld_fairseq.report import svg
from colld_fairseq.report.experiments import Run, Similarity
from colld_fairseq.report.sections import Entry, Section, System
from colld_fairseq.report.training_log import TrainingLog
from colld_fairseq.scoring.measures import NAMES

# Of a log's lines: what is counted, not what is learned.
_COUNTERS = set(
    "epoch/update/num_updates/seconds/wps/ups/wpb/bsz/train_wall/wall/clip/gb_free/loss_scale/audio_x/oom/ppl/"
    "best_loss/nll_loss/sentences/words/characters/lr/gnorm/masked".split("/")
)
_MOST_TERMS = 5  # of a loss, drawn beside the loss itself
_SCORES = ("wer", "cer", "ctc_cer", "bleu", "chrf")  # of validation, drawn where they are logged
HEADLINE = {"asr": "wer", "st": "chrf"}


class Chart(NamedTuple):
    title: str
    picture: Markup


class Curves(NamedTuple):
    """The charts of a stage of training, and the systems in them."""

    stage: str
    systems: List[System]
    charts: List[Chart]


def curves(systems: Sequence[System]) -> List[Curves]:
    """Of the first seed of every system: the loss and its terms in training, loss and scores in validation."""
    stages = dict.fromkeys(stage for system in systems for stage in system.runs[0].stages)
    result = []
    for stage in stages:
        logs = {one.index: one.runs[0].stages[stage].log for one in systems if stage in one.runs[0].stages}
        charts = [*_charts(logs, systems, "training"), *_charts(logs, systems, "validations")]
        if charts:
            result.append(Curves(stage, [one for one in systems if one.index in logs], charts))
    return result


def _charts(logs: Dict[int, TrainingLog], systems: Sequence[System], part: str) -> List[Chart]:
    records = {index: getattr(log, part) for index, log in logs.items()}
    logged = dict.fromkeys(name for lines in records.values() for line in lines for name in line)
    if part == "training":
        terms = [name for name in logged if name not in _COUNTERS and name != "loss" and _tells(name, records)]
        names, where = ["loss", *terms[:_MOST_TERMS]], "training"
    else:
        names, where = ["loss", *(name for name in logged if name in _SCORES)], "validation"
    charts = []
    for name in names:
        series = []
        for system in systems:
            values = [(line["num_updates"], line.get(name, math.nan)) for line in records.get(system.index, ())]
            points = [(x, y) for x, y in values if math.isfinite(y)]
            if len(points) > 1:
                series.append(svg.Series(system.index, system.label, points))
        if series:
            title = f"{NAMES.get(name, name)} in {where}"
            charts.append(Chart(title, svg.lines(series, "updates", NAMES.get(name, name))))
    return charts


def _tells(term: str, records: Dict[int, List[Dict[str, float]]]) -> bool:
    """Whether a term is anywhere something else than the loss, and than 0."""
    lines = [line for one in records.values() for line in one if term in line]
    return any(line[term] != line.get("loss") for line in lines) and any(line[term] != 0 for line in lines)


def language_intervals(section: Section) -> List[Chart]:
    """One chart for each measure: a heading for each language and average, a row for each system."""
    charts = []
    for measure in section.measures:
        groups = []
        for name in section.names:
            measured = [_measured(one, name, measure) for one in section.entries if measure in one.cells.get(name, {})]
            if measured:
                groups.append(svg.Group(in_words(name), measured))
        if groups:
            charts.append(Chart(f"{NAMES[measure]}, percent", svg.intervals(groups, NAMES[measure])))
    return charts


def quality(section: Section) -> List[Chart]:
    """The headline score beside size (of the models or of the encoders, whichever more systems have) and speed."""
    sizes = [
        _spots(section, lambda run: run.parameters and run.parameters / 1e6),
        _spots(section, lambda run: run.encoder and run.encoder.parameters / 1e6),
    ]
    of_encoders = len(sizes[1]) > len(sizes[0])
    sides = {
        f"million parameters of the {'encoder' if of_encoders else 'model'}": sizes[of_encoders],
        "real-time factor of the encoder": _spots(section, lambda run: run.encoder and run.encoder.rtf),
    }
    name = NAMES[HEADLINE[section.kind]]
    return [
        Chart(f"{name} and {side}", svg.scatter(spots, side, name)) for side, spots in sides.items() if len(spots) > 1
    ]


def _spots(section: Section, of: Callable[[Run], Optional[float]]) -> List[svg.Spot]:
    measure = HEADLINE[section.kind]
    return [
        svg.Spot(of(entry.system.runs[0]), _measured(entry, section.average, measure))
        for entry in section.entries
        if of(entry.system.runs[0]) and measure in entry.cells.get(section.average, {})
    ]


def similarity(table: Similarity) -> List[Chart]:
    titles = {"cka": "linear CKA", "cca": "CCA"}
    return [
        Chart(title, svg.heat_map(table.values[measure], table.row_layers, table.column_layers, "layer", "layer"))
        for measure, title in titles.items()
    ]


def in_words(name: str) -> str:
    """Of a language (pair) or an average."""
    return {"mean": "mean over languages", "all": "all utterances", "": "no language given"}.get(name, name)


def _measured(entry: Entry, name: str, measure: str) -> svg.Measured:
    cell = entry.cells[name][measure]
    return svg.Measured(entry.system.index, entry.system.label, cell.value, *(cell.interval or (None, None)))
