"""A comparison as tables and a plot: python -m examples.driver.report OUT

Reads OUT/plan.json and what it names, also of a run that is not complete: what failed or is missing is named, and the
rest reported; the exit code is then 1. Writes report.md, report.json (everything, for programs) and report.png there,
and prints the tables.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from tabulate import tabulate

from colld_fairseq.files import write_atomically
from colld_fairseq.scoring.measures import LOWER_IS_BETTER, MEASURES, NAMES
from colld_fairseq.scoring.metrics import OVERLONG
from examples.driver.plot import save_plot
from examples.driver.scores import collect, relative_gain

AVERAGES = {"mean": "mean over languages", "all": "over all utterances"}
Report = Dict[str, Any]


class Table(NamedTuple):
    """Rows of text under a header; the first column is the row's name."""

    title: str
    header: List[str]
    rows: List[List[str]]


def main(argv: List[str]) -> int:
    if len(argv) != 1 or not (Path(argv[0]) / "plan.json").is_file():
        print(f"usage: python -m examples.driver.report OUT (a folder of a recipe's run); got {argv}", file=sys.stderr)
        return 2
    return write_report(Path(argv[0]))


def write_report(out: Path) -> int:
    """Writes and prints the report; 1 if something is missing, else 0."""
    report = collect(out)
    page, content = markdown(report), json.dumps(without_nan(report), indent=2, ensure_ascii=False) + "\n"
    write_atomically(out / "report.json", content.encode())
    write_atomically(out / "report.md", page.encode())
    save_plot(report, out / "report.png")
    print(f"{page}\nwritten: {out}/report.md, report.json, report.png")
    return 1 if report["missing"] else 0


# -- tables ------------------------------------------------------------------------------------------------------------


def build_tables(report: Report) -> List[Table]:
    tables = [encoders_table(report)]
    for group in report["summary"]:
        tables += [scores_table(report, group), gains_table(report, group)]
        tables += [languages_table(report, group, kind) for kind in MEASURES]
        tables += [overlong_table(report, group)]
    shown = [shown_table(one) for one in report["shown"]]
    return [table for table in tables if table.rows] + [training_table(report), *shown]


def encoders_table(report: Report) -> Table:
    """Sizes also relative to the other encoders that a reader compares with: the last one (a teacher) and the first."""
    encoders = report["encoders"]
    others = list(dict.fromkeys([*list(encoders)[-1:], *list(encoders)[:1]])) if len(encoders) > 2 else []
    rows = []
    for name, encoder in encoders.items():
        to_others = [100 * (encoder["parameters"] / encoders[other]["parameters"] - 1) for other in others]
        rows.append([
            name, millions(encoder["parameters"]), f"{encoder['mb_float32']:.1f}", f"{encoder['gmacs_per_10s']:.2f}",
            f"{encoder['rtf']:.4f}", *(f"{value:+.1f} %" for value in to_others),
        ])  # fmt: skip
    header = ["encoder", "parameters", "MB", "GMACs", "RTF", *(f"to {other}" for other in others)]
    return Table("Encoders", header, rows)


def scores_table(report: Report, group: str) -> Table:
    systems, average = report["summary"][group], report["average"]
    parameters = {one["system"]: one["parameters"] for one in report["results"] if one["group"] == group}
    measures = measures_of(systems)
    rows = [
        [label(report, name), millions(parameters[name])]
        + [with_deviation(value(system, kind, average, measure)) for kind, measure in measures]
        for name, system in systems.items()
    ]
    header = ["", "parameters", *(NAMES[measure] for _, measure in measures)]
    return Table(f"{group[0].upper()}{group[1:]}: percent, {AVERAGES[average]}", header, rows)


def gains_table(report: Report, group: str) -> Table:
    """Of every comparison whose systems there are; of several baselines the best counts, by the first measure."""
    systems, average, rows = report["summary"][group], report["average"], []
    measures = measures_of(systems)

    def mean(system: str, kind: str, measure: str) -> Optional[float]:
        result = value(systems.get(system), kind, average, measure)
        return None if result is None else result[0]

    for question, system, baselines in report["comparisons"]:
        scored = [one for one in baselines if measures and mean(one, *measures[0]) is not None]
        if system in systems and scored:
            sign = 1 if LOWER_IS_BETTER[measures[0][1]] else -1
            best = min(scored, key=lambda one: sign * mean(one, *measures[0]))
            gains = [relative_gain(one[1], mean(system, *one), mean(best, *one)) for one in measures]
            rows.append([question, *("-" if gain is None else f"{gain:+.1f} %" for gain in gains)])
    title = f"Relative gain, {group} (positive = better, {AVERAGES[average]})"
    return Table(title, ["", *(NAMES[measure] for _, measure in measures)], rows)


def languages_table(report: Report, group: str, kind: str) -> Table:
    systems = {name: system[kind] for name, system in report["summary"][group].items() if kind in system}
    present = {name for system in systems.values() for name in system}
    names = sorted(present - {"mean", "all"}) + [name for name in ("mean", "all") if name in present]
    rows = []
    for system, scores in systems.items():
        values = [[scores.get(name, {}).get(measure) for measure in MEASURES[kind]] for name in names]
        rows.append([label(report, system), *(" / ".join(map(with_deviation, cell)) for cell in values)])
    title = f"{' / '.join(NAMES[measure] for measure in MEASURES[kind])} by language ({group})"
    return Table(title, ["", *names], rows)


def overlong_table(report: Report, group: str) -> Table:
    """Hypotheses that are far too long, of all seeds together; no row where there is none."""
    counts: Dict[str, Dict[str, List[int]]] = {}
    for result in report["results"]:
        for kind, scores in (result["values"] or {}).items() if result["group"] == group else ():
            pairs = [one for name, one in scores.items() if name not in AVERAGES]
            sums = counts.setdefault(result["system"], {}).setdefault(kind, [0, 0])
            for index, key in enumerate(("overlong", "sentences")):
                sums[index] += sum(one[key] for one in pairs)
    kinds = [kind for kind in MEASURES if any(kind in one for one in counts.values())]
    rows = [
        [label(report, system), *("{} of {}".format(*one[kind]) if kind in one else "-" for kind in kinds)]
        for system, one in counts.items()
    ]
    if not any(sums[0] for one in counts.values() for sums in one.values()):
        rows = []
    title = "Hypotheses of more than {} times the reference's words and {} more (loops, hallucinations)"
    return Table(
        title.format(*OVERLONG), ["", *({"asr": "recognition", "st": "translation"}[kind] for kind in kinds)], rows
    )


def training_table(report: Report) -> Table:
    stages = list(dict.fromkeys(stage for result in report["results"] for stage in result["stages"]))
    rows = []
    for result in {result["checkpoint"]: result for result in report["results"]}.values():
        done = [result["stages"].get(stage) for stage in stages]
        cells = ["-" if one is None else f"{one['updates']} updates, {one['minutes']:.1f} min" for one in done]
        validations = list(result["stages"].values())[-1]["validations"] if result["stages"] else []
        best = min((one.get("ctc_cer", one.get("cer", math.nan)) for one in validations), default=None)
        folder = str(Path(result["checkpoint"]).parent.parent)
        rows.append([result["label"], folder, str(result["seed"]), *cells, number(best)])
    title = "Training (wall clock, validation included; what is shared is named once)"
    return Table(title, ["", "run", "seed", *stages, "best dev CER"], rows)


def shown_table(utterance: Dict[str, Any]) -> Table:
    titles = {"asr": "A held-out utterance, recognized", "st": "A held-out utterance, translated"}
    rows = [["reference", utterance["reference"]], *map(list, utterance["hypotheses"].items())]
    return Table(titles.get(utterance["test"], utterance["test"]), ["", "text"], rows)


# -- cells -------------------------------------------------------------------------------------------------------------


def measures_of(systems: Dict[str, Any]) -> List[Tuple[str, str]]:
    """(kind, measure) of what there is."""
    kinds = [kind for kind in MEASURES if any(kind in system for system in systems.values())]
    return [(kind, measure) for kind in kinds for measure in MEASURES[kind]]


def value(system: Optional[Dict[str, Any]], kind: str, name: str, measure: str) -> Optional[Sequence[float]]:
    """[mean over seeds, deviation], or None."""
    return (system or {}).get(kind, {}).get(name, {}).get(measure)


def label(report: Report, system: str) -> str:
    return next(result["label"] for result in report["results"] if result["system"] == system)


def millions(count: Optional[int]) -> str:
    return "-" if count is None else f"{count / 1e6:.2f} M"


def number(value: Optional[float], form: str = ".1f") -> str:
    return "-" if value is None else format(value, form)


def with_deviation(value: Optional[Sequence[float]]) -> str:
    if value is None:
        return "-"
    mean, deviation = value
    return number(mean) if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


RTF_NOTE = (
    "RTF: real-time factor, the processing time per second of audio, from the waveform to the features of the last"
    " layer, one utterance at a time. GMACs: for 10 s of audio. Parameters and MB (float32) in the table of encoders:"
    " those of the encoder, which is what is distilled."
)


def hardware(report: Report) -> str:
    machine = report["machine"]
    if machine is None:
        return "hardware: not recorded (no profile.json)"
    return (
        f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, "
        f"Python {machine['python']}; RTF with {report['threads']} threads"
    )


def markdown(report: Report) -> str:
    """The page: notes, tables, the plot and what is missing."""
    parts = [f"# {report['title']}", *report["notes"], hardware(report), RTF_NOTE]
    parts += [markdown_table(table) for table in build_tables(report)]
    parts.append("![test scores and validation curves](report.png)")
    if report["missing"]:
        parts.append("\n".join(["## Missing", "", *(f"- {item}" for item in report["missing"])]))
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table, heading: str = "##") -> str:
    """The first column to the left, figures to the right."""
    sides = ["left"] + ["right"] * (len(table.header) - 1)
    rows = tabulate(table.rows, table.header, "pipe", disable_numparse=True, colalign=sides)
    return f"{heading} {table.title}\n\n{rows}"


def without_nan(value: Any) -> Any:
    """JSON has no NaN: null instead."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
