"""Heat maps of layers against layers."""

import io
from typing import Dict, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

CELL_INCHES = 0.44
LONGEST_NAME = 44  # characters of a model's name on an axis; its end tells more than its beginning


def png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def heat_maps(
    panels: Dict[str, Tensor], row_name: str, rows: Sequence[int], column_name: str, columns: Sequence[int]
) -> Figure:
    """One heat map for each title -> [R, C] of values in [0, 1], R and C layers; the first are at the bottom left."""
    width = max(3.2, CELL_INCHES * len(columns)) + 1.6
    height = max(2.6, CELL_INCHES * len(rows)) + 1.5
    figure = Figure(figsize=(width * len(panels), height), dpi=150, layout="constrained")
    for axes, (title, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        _heat_map(figure, axes, values, rows, columns)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(f"layer of {shorten(column_name)}", fontsize=9)
        axes.set_ylabel(f"layer of {shorten(row_name)}", fontsize=9)
    return figure


def _heat_map(figure: Figure, axes: Axes, values: Tensor, rows: Sequence[int], columns: Sequence[int]) -> None:
    image = axes.imshow(values.numpy(), origin="lower", aspect="auto", vmin=0.0, vmax=1.0, cmap="viridis")
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    for i, line in enumerate(values.tolist()):
        for j, value in enumerate(line):
            color = "black" if value > 0.6 else "white"  # viridis is light at its upper end
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=color, fontsize=7)
    figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02).ax.tick_params(labelsize=8)


def shorten(name: str) -> str:
    """The end of a long name."""
    return name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"
