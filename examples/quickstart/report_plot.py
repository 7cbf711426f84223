"""The plot of the quickstart's report: validation curves above, test scores by language below."""

import math
from pathlib import Path
from typing import Any, Dict, List, Optional

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from colld_fairseq.files import written_whole

# Colours of Okabe and Ito, which differ for every kind of colour vision, and in lightness on grey paper.
STYLES = {
    "colld": dict(color="#0072B2", marker="o", linestyle="-"),
    "l1cos": dict(color="#E69F00", marker="s", linestyle="-"),
    "scratch": dict(color="#4D4D4D", marker="^", linestyle="--"),
}
WIDTH = 0.27  # of a bar; three of them and a gap make 1


def save_plot(report: Dict[str, Any], path: Path) -> None:
    """Draws `report` (of report.collect) to a PNG. A panel without data says so."""
    arms = report["arms"]
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(2, 2, figsize=(11, 7.6), dpi=140)
        _curves(axes[0, 0], arms, "cer", "Validation: recognition by CTC", "CER, percent")
        _curves(axes[0, 1], arms, "chrf", "Validation: translation", "chrF, mean of directions")
        _bars(axes[1, 0], arms, "asr", "cer", "Test: recognition (lower is better)", "CER, percent")
        _bars(axes[1, 1], arms, "st", "chrf", "Test: translation (higher is better)", "chrF")
        handles = [
            plt.Line2D([], [], label=arms[arm]["label"], linewidth=2, markersize=7, **style)
            for arm, style in STYLES.items()
        ]
        figure.legend(handles=handles, loc="upper center", ncols=3, frameon=False, fontsize=11)
        figure.tight_layout(rect=(0, 0, 1, 0.95), h_pad=2.5, w_pad=2.5)
        with written_whole(path) as handle:
            figure.savefig(handle, format="png")
        plt.close(figure)


def _curves(axes: Axes, arms: Dict[str, Any], score: str, title: str, label: str) -> None:
    _frame(axes, title, label)
    drawn = False
    for arm, style in STYLES.items():
        points = [(p["updates"], p[score]) for p in arms[arm]["curve"] if math.isfinite(p[score])]
        if points:
            axes.plot(*zip(*points), markersize=4.5, linewidth=1.8, **style)
            drawn = True
    if not drawn:
        return _no_data(axes)
    if score == "cer":  # an untrained model inserts without limit
        axes.set_ylim(0, min(105, axes.get_ylim()[1]))
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("fine-tuning updates")


def _bars(axes: Axes, arms: Dict[str, Any], task: str, score: str, title: str, label: str) -> None:
    _frame(axes, title, label)
    names = {name for arm in STYLES for name in arms[arm][task] or {}}
    pairs: List[str] = sorted(names - {"all"}) + (["all"] if "all" in names else [])
    if not pairs:
        return _no_data(axes)
    for number, (arm, style) in enumerate(STYLES.items()):
        values = [_value(arms[arm][task], pair, score) for pair in pairs]
        places = [place + (number - 1) * WIDTH for place in range(len(pairs))]
        heights = [0 if value is None else value for value in values]
        bars = axes.bar(places, heights, WIDTH * 0.92, color=style["color"])
        texts = ["" if value is None else f"{value:.0f}" for value in values]
        axes.bar_label(bars, texts, fontsize=7.5, padding=1.5, color="#333333")
    axes.set_xticks(range(len(pairs)), [pair.replace("-", " → ") for pair in pairs])
    axes.tick_params(axis="x", length=0)
    if "all" in pairs and len(pairs) > 1:
        axes.axvline(len(pairs) - 1.5, color="#BBBBBB", linewidth=0.8, linestyle=":")


def _value(scores: Optional[Dict[str, Any]], pair: str, score: str) -> Optional[float]:
    return (scores or {}).get(pair, {}).get(score)


def _frame(axes: Axes, title: str, label: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_ylabel(label)
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)


def _no_data(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color="#777777")
    axes.set_xticks([])
    axes.set_yticks([])
