"""The plot of the comparison: test errors of every arm on the left, validation CER on the right, a row a student."""

import math
from pathlib import Path
from typing import Any, Dict, List

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from colld_fairseq.files import written_whole

# Okabe and Ito; single teachers take theirs in order.
FIXED = {"scratch": "#4D4D4D", "sum": "#0072B2", "random": "#56B4E9", "average": "#009E73", "unlabelled": "#D55E00"}
FIXED.update(kd="#CC79A7", kd_unlabelled="#000000")
TEACHERS = ["#E69F00", "#F0E442", "#B2B2B2"]


def save_plot(report: Dict[str, Any], path: Path) -> None:
    """Draws `report` (of report.collect) to a PNG."""
    students: List[str] = report["settings"]["students"]
    names: List[str] = report["settings"]["teacher_names"]
    colours = {**FIXED, **{name: TEACHERS[i % len(TEACHERS)] for i, name in enumerate(names)}}
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(len(students), 2, figsize=(11, 4 * len(students)), dpi=130, squeeze=False)
        for row, student in enumerate(students):
            bars(axes[row, 0], report["summary"][student]["greedy"], colours, f"Test, student {student}, greedy")
            curves(axes[row, 1], [r for r in report["results"] if r["student"] == student], colours)
        figure.tight_layout(h_pad=2.0, w_pad=2.0)
        with written_whole(path) as handle:
            figure.savefig(handle, format="png")
        plt.close(figure)


def bars(axes: Axes, arms: Dict[str, Any], colours: Dict[str, str], title: str) -> None:
    """Mean WER over languages, of translation alone mean BLEU; the whisker is the deviation over seeds."""
    kind, score = ("asr", "wer") if any("asr" in arm for arm in arms.values()) else ("st", "bleu")
    axes.set_title(title, loc="left", fontweight="bold")
    order = [arm for arm in list(arms)[::-1] if kind in arms[arm]]
    for place, arm in enumerate(order):
        value, deviation = arms[arm][kind]["mean"][score]
        axes.barh(place, value, color=colours.get(arm, "#999999"), xerr=deviation, height=0.8)
        axes.text(value, place, f" {value:.1f}", va="center", fontsize=8, color="#333333")
    axes.set_yticks(range(len(order)), order)
    axes.set_xlabel(f"{score.upper()}, percent, mean over languages")
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)


def curves(axes: Axes, results: List[Dict[str, Any]], colours: Dict[str, str]) -> None:
    """Validation CER of the first seed of every arm in stage 2."""
    axes.set_title("Validation in stage 2", loc="left", fontweight="bold")
    seen = set()
    for result in results:
        validations = result.get("stage2", {}).get("validations", [])
        points = [(v["num_updates"], v["cer"]) for v in validations if math.isfinite(v.get("cer", math.nan))]
        if points and result["arm"] not in seen:
            seen.add(result["arm"])
            axes.plot(*zip(*points), color=colours.get(result["arm"], "#999999"), label=result["arm"])
    axes.set_ylim(0, 105)  # an untrained model inserts without limit
    axes.set_xlim(left=0)
    axes.set_xlabel("updates")
    axes.set_ylabel("CER, percent")
    axes.grid(color="#E5E5E5", linewidth=0.8)
    if seen:
        axes.legend(frameon=False, fontsize=7, ncols=2)
