"""The plot of the comparison: test CER of every arm above, validation CER over updates below, a column a label size."""

import math
from pathlib import Path
from typing import Any, Dict, List

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from colld_fairseq.files import written_whole

# A colour (Okabe and Ito) for each student, a hatch and a line style for each arm.
COLOURS = {"deep_thin": "#0072B2", "shallow_wide": "#E69F00", "deep_thin_fbank": "#009E73", "teacher": "#4D4D4D"}
NAMES = {"deep_thin": "D&T", "shallow_wide": "S&W", "deep_thin_fbank": "D&T fbank", "teacher": "teacher"}
LINES = {"scratch": ":", "regression": "--", "discriminative": "-", "adapted": "-.", "fine_tuned": "-"}
ALPHAS = {"scratch": 0.35, "regression": 0.65, "discriminative": 1.0, "adapted": 0.8, "fine_tuned": 1.0}


def save_plot(report: Dict[str, Any], path: Path) -> None:
    """Draws `report` (of report.collect) to a PNG."""
    sizes: List[str] = report["settings"]["label_minutes"]
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(2, len(sizes), figsize=(5.5 * len(sizes), 8), dpi=130, squeeze=False)
        for column, minutes in enumerate(sizes):
            bars(axes[0, column], report["summary"]["greedy"][minutes], f"Test, {minutes} min of labels a language")
            curves(axes[1, column], [r for r in report["results"] if r["label_minutes"] == minutes])
        figure.tight_layout(h_pad=2.0, w_pad=2.0)
        with written_whole(path) as handle:
            figure.savefig(handle, format="png")
        plt.close(figure)


def bars(axes: Axes, summary: Dict[str, Any], title: str) -> None:
    """Mean CER over languages; the whisker is the deviation over seeds."""
    axes.set_title(title, loc="left", fontweight="bold")
    arms = list(summary)[::-1]
    for place, arm in enumerate(arms):
        student, name = arm.split("/")
        value, deviation = summary[arm]["mean"]["cer"]
        axes.barh(place, value, color=COLOURS[student], alpha=ALPHAS[name], xerr=deviation, height=0.8)
        axes.text(value, place, f" {value:.1f}", va="center", fontsize=8, color="#333333")
    axes.set_yticks(range(len(arms)), [label(arm) for arm in arms])
    axes.set_xlabel("CER, percent, mean over languages")
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)


def curves(axes: Axes, results: List[Dict[str, Any]]) -> None:
    """Validation CER of the first seed of every arm."""
    axes.set_title("Validation", loc="left", fontweight="bold")
    seen = set()
    for result in results:
        validations = result.get("finetune", {}).get("validations", [])
        points = [(v["num_updates"], v["cer"]) for v in validations if math.isfinite(v.get("cer", math.nan))]
        if points and result["arm"] not in seen:
            seen.add(result["arm"])
            student, name = result["arm"].split("/")
            axes.plot(*zip(*points), color=COLOURS[student], linestyle=LINES[name], label=label(result["arm"]))
    axes.set_ylim(0, 105)  # an untrained model inserts without limit
    axes.set_xlim(left=0)
    axes.set_xlabel("fine-tuning updates")
    axes.set_ylabel("CER, percent")
    axes.grid(color="#E5E5E5", linewidth=0.8)
    if seen:
        axes.legend(frameon=False, fontsize=7, ncols=2)


def label(arm: str) -> str:
    student, name = arm.split("/")
    return NAMES[student] if name == "fine_tuned" else f"{NAMES[student]} {name}"
