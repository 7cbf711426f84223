"""The front page's figure: character error rate against size and speed, from recorded results.

    python benchmarks/quality_figure.py        # reads results/quality.json beside it, writes docs/quality.png

The quickstart's students come from its report (RESULTS.md); the teacher's encoder is measured there too, and its
character error rate is that of the whole of Whisper base, with its own decoder, on the same prompts.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
COLORS = {"teacher": "#444444", "distilled": "#1f77b4", "scratch": "#d62728"}


def draw(systems, axis, field, label, ticks):
    for system in systems:
        x, y = system[field], system["cer"]
        axis.scatter(x, y, s=70, color=COLORS[system["kind"]], zorder=3)
        axis.annotate(
            system["name"], (x, y), xytext=tuple(system["label_offset"]), textcoords="offset points", fontsize=9
        )
    axis.set_xscale("log")
    axis.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel(label)
    axis.set_ylim(0, 1.3 * max(system["cer"] for system in systems))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "quality.json")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "quality.png")
    args = parser.parse_args(arguments)
    recorded = json.loads(args.results.read_text(encoding="utf-8"))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    draw(recorded["systems"], axes[0], "encoder_parameters_m", "parameters of the encoder, million", (2, 5, 10, 20, 50))
    draw(
        recorded["systems"],
        axes[1],
        "rtf",
        "seconds of one CPU thread per second of audio",
        (0.005, 0.01, 0.02, 0.05, 0.1),
    )
    axes[0].set_xlim(1.5, 60)
    axes[1].set_xlim(0.003, 0.12)
    axes[0].set_ylabel("character error rate, %")
    figure.suptitle(recorded["title"], fontsize=10)
    figure.savefig(args.out, dpi=150)


if __name__ == "__main__":
    main()
