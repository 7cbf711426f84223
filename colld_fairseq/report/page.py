"""The page: everything in one HTML file, which asks for nothing from anywhere.

Whatever comes from files is text: jinja2 escapes it, and the page's own policy forbids scripts and the network.
"""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import jinja2

from colld_fairseq.report import charts, settings, svg
from colld_fairseq.report.decoded import Decoded
from colld_fairseq.report.experiments import Experiment
from colld_fairseq.report.files import Problems
from colld_fairseq.report.players import Players
from colld_fairseq.report.sections import (
    Cell,
    Entry,
    Section,
    System,
    all_systems,
    build_sections,
    wanted_comparisons,
)
from colld_fairseq.report.utterances import choose
from colld_fairseq.scoring.bootstrap import RESAMPLES, SEED
from colld_fairseq.scoring.measures import LOWER_IS_BETTER, NAMES, kind_of
from colld_fairseq.scoring.metrics import OVERLONG

HERE = Path(__file__).parent
KINDS = {"asr": "recognition", "st": "translation"}


class Shown(NamedTuple):
    """A cell: the figure, smaller words beside it, and whether no system has a better one."""

    main: str
    small: str = ""
    best: bool = False


class Table(NamedTuple):
    """On a narrow screen every row becomes a block, in which the header's words stand beside the cells."""

    caption: str
    header: List[str]
    rows: List[List[Shown]]


def render(
    experiments: Sequence[Experiment],
    problems: Problems,
    baseline: str = "",
    utterances: int = 6,
    audio_mb: float = 8.0,
    resamples: int = RESAMPLES,
) -> str:
    """The page of experiments side by side. utterances: of each list of a test set; audio_mb: of the page, 10^6 bytes.

    Raises ConfigError: a baseline that is none of the systems.
    """
    systems = all_systems(experiments)
    comparisons = wanted_comparisons(systems, baseline)
    players = Players(audio_mb)
    sections = [
        {
            "section": section,
            "title": title_of(section),
            "headline": headline(section),
            "tables": [*language_tables(section), *overlong(section)],
            "charts": charts.language_intervals(section),
            "compared": comparison_table(section),
            "cards": [(card, players.of(card.utterance.audio)) for card in choose(section, comparisons, utterances)],
            "quality": charts.quality(section),
        }
        for section in build_sections(systems, comparisons, resamples)
    ]
    context = {
        "title": " · ".join(dict.fromkeys(one.title for one in experiments)),
        "experiments": experiments,
        "systems": systems,
        "sections": sections,
        "bootstrap": f"bs:{resamples}|seed:{SEED}",
        "curves": charts.curves(systems),
        "training": training_table(systems),
        "encoders": encoders_table(experiments),
        "similarities": [
            (one, charts.similarity(one)) for experiment in experiments for one in experiment.similarities
        ],
        "trained_with": [settings_table(one, ["value"]) for one in settings.in_common(systems)],
        "settings": [settings_table(one) for one in settings.differences(systems)],
        "command_lines": settings_table(settings.of_command_lines(systems)) if len(experiments) > 1 else None,
        "problems": problems,
        "key": svg.key,
    }
    return svg.clean(environment().get_template("page.html").render(context))


def environment() -> jinja2.Environment:
    """Escapes everything but what this package draws; a name that is missing is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: svg.clean(value) if type(value) is str else value,
    )
    return made


def title_of(section: Section) -> str:
    """Group, kind and test set, each once."""
    title = " · ".join(filter(None, [section.group, KINDS[section.kind], section.test]))
    return title[:1].upper() + title[1:]


# -- tables ------------------------------------------------------------------------------------------------------------


def headline(section: Section) -> Table:
    """Systems with both measures, over the average that the experiment names; and sizes, where one is known."""
    rows, sizes = [], [entry.system.runs[0].parameters for entry in section.entries]
    sized = any(size is not None for size in sizes)
    for entry, size in zip(section.entries, sizes, strict=True):
        cells = entry.cells.get(section.average, {})
        rows.append(
            [
                Shown(entry.system.label),
                *(figure(section, section.average, measure, cells.get(measure)) for measure in section.measures),
                *([Shown(millions(size))] if sized else []),
                Shown(str(sum(one["sentences"] for one in pairs_of(section, entry.decoded[0])))),
            ]
        )
    names = [NAMES[measure] for measure in section.measures]
    header = ["system", *names, *(["parameters"] if sized else []), "utterances"]
    return Table(f"Percent, {charts.in_words(section.average)}", header, rows)


def language_tables(section: Section) -> List[Table]:
    """A table for each measure; the longer one of languages and systems goes down. None of a single language; of a
    single system one table of both measures."""
    if len(section.languages) < 2:
        return []
    if len(section.entries) == 1:
        return [_languages_of_one(section, section.entries[0])]
    labels, names = [entry.system.label for entry in section.entries], [charts.in_words(one) for one in section.names]
    tables = []
    for measure in section.measures:
        cells = [
            [figure(section, name, measure, entry.cells.get(name, {}).get(measure)) for name in section.names]
            for entry in section.entries
        ]
        if len(section.names) > len(labels):
            rows = [[Shown(name), *(row[index] for row in cells)] for index, name in enumerate(names)]
            tables.append(Table(f"{NAMES[measure]} by language", ["language", *labels], rows))
        else:
            rows = [[Shown(label), *row] for label, row in zip(labels, cells, strict=True)]
            tables.append(Table(f"{NAMES[measure]} by language", ["system", *names], rows))
    return tables


def _languages_of_one(section: Section, entry: Entry) -> Table:
    rows = []
    for name in section.names:
        cells = entry.cells.get(name, {})
        figures = (figure(section, name, measure, cells.get(measure)) for measure in section.measures)
        rows.append([Shown(charts.in_words(name)), *figures])
    return Table("By language", ["language", *(NAMES[measure] for measure in section.measures)], rows)


def overlong(section: Section) -> List[Table]:
    """Hypotheses that are far too long, where there are any."""
    rows, total = [], 0
    for entry in section.entries:
        counts = [one for decoded in entry.decoded for one in pairs_of(section, decoded)]
        overlong, sentences = (sum(one.get(key, 0) for one in counts) for key in ("overlong", "sentences"))
        rows.append([Shown(entry.system.label), Shown(f"{overlong} of {sentences}")])
        total += overlong
    caption = "Hypotheses of more than {} times the reference's words and {} more (loops, hallucinations)"
    return [Table(caption.format(*OVERLONG), ["system", "hypotheses"], rows)] if total else []


def pairs_of(section: Section, decoded: Decoded) -> List[Dict[str, Any]]:
    """The scores of the language pairs of a section's kind."""
    return [one for one in decoded.scores["pairs"] if kind_of(one["src_lang"], one["tgt_lang"]) == section.kind]


def comparison_table(section: Section) -> Optional[Table]:
    """A row for each comparison, a column for each measure."""
    rows: Dict[Tuple[str, int, int], Dict[str, Shown]] = {}
    names = {}
    for one in section.compared:
        beside = f"{one.system.label} beside {one.baseline.label}"
        question = (one.question, one.system.index, one.baseline.index)
        names[question] = Shown(one.question or beside, beside if one.question else "")
        verdict = {True: "better", False: "worse", None: "not told apart"}[one.better]
        bounds = "{:+.2f} to {:+.2f}, p {:.3f}".format(*one.comparison.interval, one.comparison.p)
        cell = Shown(f"{one.comparison.difference:+.2f} {verdict}", bounds, bool(one.better))
        rows.setdefault(question, {})[one.measure] = cell
    cells = [[names[key], *(row.get(measure, Shown("–")) for measure in section.measures)] for key, row in rows.items()]
    header = ["comparison", *(NAMES[measure] for measure in section.measures)]
    return Table("Paired comparisons", header, cells) if cells else None


def training_table(systems: Sequence[System]) -> Optional[Table]:
    stages = list(dict.fromkeys(stage for system in systems for run in system.runs for stage in run.stages))
    rows = []
    for system in systems:
        for run in system.runs:
            done = [run.stages.get(stage) for stage in stages]
            cells = ["–" if one is None else f"{one.log.updates} updates, {one.minutes:.1f} min" for one in done]
            rows.append([Shown(system.label, f"seed {run.seed}" if len(system.runs) > 1 else ""), *map(Shown, cells)])
    return Table("Updates, and wall clock with validation", ["system", *stages], rows) if stages else None


def encoders_table(experiments: Sequence[Experiment]) -> Optional[Table]:
    rows = [
        [
            Shown(one.name),
            Shown(millions(one.parameters)),
            Shown(f"{one.mb_float32:.1f}"),
            Shown("–" if one.gmacs_per_10s is None else f"{one.gmacs_per_10s:.2f}"),
            Shown("–" if one.rtf is None else f"{one.rtf:.4f}"),
        ]
        for experiment in experiments
        for one in experiment.encoders
    ]
    header = ["encoder", "parameters", "MB as float32", "GMACs for 10 s", "real-time factor"]
    return Table("Encoders, as measured", header, rows) if rows else None


def settings_table(differences: settings.Differences, columns: Sequence[str] = ()) -> Table:
    """columns: in place of the systems' labels."""
    columns = columns or [system.label for system in differences.systems]
    rows = [[Shown(name), *map(Shown, values)] for name, values in differences.rows.items()]
    return Table(differences.stage, ["setting", *columns], rows)


# -- cells -------------------------------------------------------------------------------------------------------------


def figure(section: Section, name: str, measure: str, cell: Optional[Cell]) -> Shown:
    if cell is None:
        return Shown("–")
    values = [entry.cells[name][measure].value for entry in section.entries if measure in entry.cells.get(name, {})]
    best = min(values) if LOWER_IS_BETTER[measure] else max(values)
    deviation = "" if cell.deviation is None else f" ± {cell.deviation:.2f}"
    bounds = "" if cell.interval is None else "{:.1f}–{:.1f}".format(*cell.interval)
    return Shown(f"{cell.value:.2f}{deviation}", bounds, len(values) > 1 and cell.value == best)


def millions(count: Optional[int]) -> str:
    return "–" if count is None else f"{count / 1e6:.2f} M"
