"""The plot of a comparison: a row for every group and kind of test, scores by system left, validation right."""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from colld_fairseq.files import written_atomically
from examples.driver.scores import validation_curve

# Colors of Okabe and Ito, which differ for every kind of color vision.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#4D4D4D", "#CC79A7", "#D55E00", "#56B4E9", "#B2A000")
LINES = ("-", "--", ":", "-.")
MARKERS = "osD^vP*X<>"
SHOWN = {"asr": ("cer", "CER, percent"), "st": ("chrf", "chrF")}


class Style(NamedTuple):
    color: str
    line: str
    alpha: float


def styles(systems: List[str]) -> Dict[str, Style]:
    """A color for each system, or where they are named FAMILY/MEMBER for each family, with a line for each member."""
    families: Dict[str, List[str]] = {}
    for system in systems:
        families.setdefault(system.split("/")[0], []).append(system)
    return {
        system: Style(COLORS[i % len(COLORS)], LINES[(k + i // len(COLORS)) % len(LINES)], 1 - 0.25 * (k % 4))
        for i, family in enumerate(families.values())
        for k, system in enumerate(family)
    }


def save_plot(report: Dict[str, Any], path: Path) -> None:
    """Draws `report` (of scores.collect) to a PNG."""
    kinds_of = {
        group: {kind for system in systems.values() for kind in system} for group, systems in report["summary"].items()
    }
    rows = [(group, kind) for group, kinds in kinds_of.items() for kind in SHOWN if kind in kinds]
    looks = styles(list(dict.fromkeys(result["system"] for result in report["results"])))
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        count = max(1, len(rows))
        height = 1.6 + 0.28 * len(looks)
        figure, axes = plt.subplots(count, 2, figsize=(11.5, height * count), dpi=130, squeeze=False)
        for row, (group, kind) in enumerate(rows):
            _bars(axes[row, 0], report, group, kind, looks)
            results = [result for result in report["results"] if result["group"] == group]
            if any(validation_curve(result, kind) for result in results):
                _curves(axes[row, 1], results, kind, looks)
            else:
                _sizes(axes[row, 1], report, results, kind, looks)
        if not rows:
            for panel in axes[0]:
                _no_data(panel)
        figure.tight_layout(h_pad=2.0, w_pad=2.0)
        with written_atomically(path) as handle:
            figure.savefig(handle, format="png")
        plt.close(figure)


def _bars(axes: Axes, report: Dict[str, Any], group: str, kind: str, looks: Dict[str, Style]) -> None:
    """The average; the whisker is the deviation over seeds, the marks are the languages."""
    measure, name = SHOWN[kind]
    systems = {system: scores[kind] for system, scores in report["summary"][group].items() if kind in scores}
    names = {result["system"]: result["label"] for result in report["results"]}
    languages = sorted({one for scores in systems.values() for one in scores} - {"mean", "all"})
    for index, (system, scores) in enumerate(reversed(systems.items())):
        score, deviation = scores.get(report["average"], scores["mean"])[measure]
        axes.barh(index, score, color=looks[system].color, alpha=looks[system].alpha, xerr=deviation, height=0.75)
        axes.text(0, index, f" {score:.1f}", va="center", fontsize=8, color="white", fontweight="bold")
        for mark, language in zip(MARKERS, languages):
            if language in scores:
                point = scores[language][measure][0]
                axes.plot(point, index, mark, color="white", markeredgecolor="#333333", markersize=5)
    if len(languages) > 1:
        marks = [plt.Line2D([], [], marker=m, color="#333333", linestyle="", markerfacecolor="white", label=language)
                 for m, language in zip(MARKERS, languages)]  # fmt: skip
        axes.legend(handles=marks, frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(marks))
    better = "lower" if kind == "asr" else "higher"
    axes.set_title(f"Test, {group} ({better} is better)", loc="left", fontweight="bold", pad=18)
    axes.set_yticks(range(len(systems)), [names[system] for system in reversed(systems)])
    axes.set_xlabel(name)
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)


def _curves(axes: Axes, results: List[Dict[str, Any]], kind: str, looks: Dict[str, Style]) -> None:
    """Of the last stage of training, the first seed of every system."""
    axes.set_title("Validation", loc="left", fontweight="bold", pad=18)
    seen = set()
    for result in results:
        points = validation_curve(result, kind)
        if points and result["system"] not in seen:
            seen.add(result["system"])
            style = looks[result["system"]]
            axes.plot(*zip(*points), color=style.color, linestyle=style.line, marker=".", label=result["label"])
    if not seen:
        return _no_data(axes)
    axes.set_ylim(0, min(105, axes.get_ylim()[1]))  # an untrained model inserts without limit
    axes.set_xlim(left=0)
    axes.set_xlabel("updates")
    axes.set_ylabel(SHOWN[kind][1])
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.legend(frameon=False, fontsize=7)


def _sizes(
    axes: Axes, report: Dict[str, Any], results: List[Dict[str, Any]], kind: str, looks: Dict[str, Style]
) -> None:
    """The average beside the size of the encoder, where nothing was decoded in validation."""
    measure, name = SHOWN[kind]
    axes.set_title("Quality and size", loc="left", fontweight="bold", pad=18)
    points = {}
    for result in results:
        scores = (result["values"] or {}).get(kind, {})
        if report["average"] in scores and result["encoder_parameters"]:
            millions = result["encoder_parameters"] / 1e6
            points.setdefault(result["system"], (millions, scores[report["average"]][measure], result["label"]))
    if not points:
        return _no_data(axes)
    for system, (size, score, label) in points.items():
        axes.plot(size, score, "o", color=looks[system].color, markersize=8, label=label)
    axes.set_xlim(0, 1.1 * max(size for size, _, _ in points.values()))
    axes.set_ylim(0, 1.1 * max(score for _, score, _ in points.values()))
    axes.set_xlabel("encoder, million parameters")
    axes.set_ylabel(name)
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.legend(frameon=False, fontsize=7)


def _no_data(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color="#777777")
    axes.set_xticks([])
    axes.set_yticks([])
