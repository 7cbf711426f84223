"""How alike the layers of two models are: linear CKA and CCA, from second moments gathered batch by batch.

Only means and (cross-)covariances are held, in float64, so any amount of audio fits. Both measures lie in [0, 1], are 1
for equal features and do not change when a layer is shifted, scaled or rotated. Needs torch only.

- Linear CKA (Kornblith et al. 2019, 1905.00414, section 3): |Sxy|_F^2 / (|Sxx|_F |Syy|_F). Directions of much variance
  count most; stretching a layer along one direction changes it. Where a few channels are far larger than all others, as
  in the middle layers of Whisper, it speaks of those channels only: read CCA there.
- CCA: mean of the canonical correlations of the two layers' leading principal components (SVCCA, Raghu et al. 2017,
  1706.05806): of each layer as many as hold `variance` of its variance; mean over the smaller number. With
  `variance=1` it is plain CCA (the mean correlation of Kornblith et al., table 1), which no invertible map changes.
"""

from dataclasses import dataclass
from typing import Callable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

# Components weaker than this share of the strongest one's variance are rounding errors of float32 features.
NULL_VARIANCE = 1e-10


class SecondMoments:
    """Means and second moments of features of two models ("rows" and "columns") on the same frames.

    Holds sum D_r^2 + sum D_c^2 + (sum D_r)(sum D_c) numbers: 0.9 GB for two models of 13 layers of 768.

    Attributes:
        count: frames so far.
        row_scatter, column_scatter: of each layer, sum over frames of (x - mean)(x - mean)^T, [D, D].
        cross: the same between all layers of both models, [sum D_r, sum D_c].
    """

    def __init__(self, row_widths: Sequence[int], column_widths: Sequence[int], device: str = "cpu"):
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.row_widths, self.column_widths = list(row_widths), list(column_widths)
        self.count = 0
        self.row_mean, self.column_mean = zeros(sum(row_widths)), zeros(sum(column_widths))
        self.row_scatter = [zeros(width, width) for width in row_widths]
        self.column_scatter = [zeros(width, width) for width in column_widths]
        self.cross = zeros(sum(row_widths), sum(column_widths))

    def update(self, rows: Tensor, columns: Tensor) -> None:
        """Add the frames rows [n, sum D_r] and columns [n, sum D_c]: all layers side by side, no padding.

        The result depends on order and size of the batches only by rounding (Chan et al. 1983: moments about the
        batch's mean, corrected for its distance from the mean so far).
        """
        frames = len(rows)
        if frames == 0:
            return
        total = self.count + frames
        correction = (self.count * frames / total) ** 0.5
        x, row_step = _center(rows, self.row_mean, correction)
        y, column_step = _center(columns, self.column_mean, correction)
        self.cross.addmm_(x.T, y)
        for scatters, centered, widths in (
            (self.row_scatter, x, self.row_widths),
            (self.column_scatter, y, self.column_widths),
        ):
            for scatter, layer in zip(scatters, centered.split(widths, dim=1)):
                scatter.addmm_(layer.T, layer)
        self.row_mean += row_step * (frames / total)
        self.column_mean += column_step * (frames / total)
        self.count = total

    def cross_of(self, row: int, column: int) -> Tensor:
        """[D_r, D_c] of one pair of layers, by position."""
        start = sum(self.row_widths[:row])
        stripe = self.cross[start : start + self.row_widths[row]]
        return stripe.split(self.column_widths, dim=1)[column]


def _center(frames: Tensor, mean: Tensor, correction: float) -> Tuple[Tensor, Tensor]:
    """Frames about their own mean, and as one more row the correction; distance of their mean from `mean`."""
    frames = frames.to(device=mean.device, dtype=torch.float64)
    own = frames.mean(0)
    step = own - mean
    return torch.cat([frames - own, correction * step[None]]), step


@dataclass
class Similarity:
    """All pairs of layers, R rows and C columns, float64 on the CPU.

    cka, cca: [R, C]. cka_chance, cca_chance: what unrelated features of the same covariances give on as many
    independent frames (neighboring frames of speech are not independent: there it is more); for CKA the expectation,
    for CCA the root of the expected mean square correlation, which the expected mean cannot exceed.
    row_ranks [R], column_ranks [C]: principal components that CCA kept.
    """

    frames: int
    cka: Tensor
    cca: Tensor
    cka_chance: Tensor
    cca_chance: Tensor
    row_ranks: List[int]
    column_ranks: List[int]


def compare(moments: SecondMoments, variance: float = 0.99, on_pair: Optional[Callable[[], None]] = None) -> Similarity:
    """Both measures for every pair of layers; `on_pair()` is called after each.

    Raises ValueError: features that are not finite, a layer that is constant, or so few frames that canonical
    correlations of 1 are unavoidable (no more than the kept components of both layers together).
    """
    if not 0.0 < variance <= 1.0:
        raise ValueError(f"variance is {variance}, it must be above 0 and at most 1")
    row_bases = [_whitening(scatter, variance) for scatter in moments.row_scatter]
    column_bases = [_whitening(scatter, variance) for scatter in moments.column_scatter]
    row_ranks, column_ranks = ([basis.size(1) for basis in bases] for bases in (row_bases, column_bases))
    if moments.count <= max(row_ranks) + max(column_ranks):
        raise ValueError(
            f"{moments.count} frames are too few for layers of {max(row_ranks)} and {max(column_ranks)} principal "
            "components: CCA would find perfect correlations in noise"
        )
    shape = (len(row_bases), len(column_bases))
    cka, cca, cka_chance, cca_chance = (torch.zeros(shape, dtype=torch.float64) for _ in range(4))
    degrees = moments.count - 1
    for i, (row, row_basis) in enumerate(zip(moments.row_scatter, row_bases)):
        for j, (column, column_basis) in enumerate(zip(moments.column_scatter, column_bases)):
            cross = moments.cross_of(i, j)
            cka[i, j] = linear_cka(row, cross, column)
            cka_chance[i, j] = row.trace() * column.trace() / (row.norm() * column.norm()) / degrees
            correlations = torch.linalg.svdvals(row_basis.T @ cross @ column_basis)
            cca[i, j] = correlations.clamp(max=1.0).mean()  # as many as the smaller number of components
            cca_chance[i, j] = (max(row_ranks[i], column_ranks[j]) / degrees) ** 0.5
            if on_pair is not None:
                on_pair()
    return Similarity(moments.count, cka, cca, cka_chance.clamp(max=1.0), cca_chance, row_ranks, column_ranks)


def linear_cka(row: Tensor, cross: Tensor, column: Tensor) -> Tensor:
    """Of the scatter matrices [D_r, D_r], [D_r, D_c] and [D_c, D_c] of two layers; NaN where one is constant."""
    return cross.square().sum() / (row.norm() * column.norm())


def frame_moments(rows: Tensor, columns: Tensor) -> Tensor:
    """Sum over frames of z z^T, z = (1, row, column): float64 [1 + D_r + D_c, 1 + D_r + D_c] of rows [n, D_r] and
    columns [n, D_c]. Such sums add up over batches and workers to what `cka_of_moments` takes."""
    rows = rows.double()
    frames = torch.cat([rows.new_ones(len(rows), 1), rows, columns.to(rows)], 1)
    return frames.T @ frames


def cka_of_moments(moments: Tensor, row_width: int) -> float:
    """Linear CKA of two layers, the first of width `row_width`, from a sum of `frame_moments`."""
    frames, mean = moments[0, 0], moments[0, 1:] / moments[0, 0]
    scatter = moments[1:, 1:] - frames * torch.outer(mean, mean)
    row, column = scatter[:row_width, :row_width], scatter[row_width:, row_width:]
    return float(linear_cka(row, scatter[:row_width, row_width:], column))


def _whitening(scatter: Tensor, variance: float) -> Tensor:
    """[D, K]: maps centered features to their K leading principal components, each of sum of squares 1."""
    if not torch.isfinite(scatter).all():
        raise ValueError("features are not finite")
    values, vectors = torch.linalg.eigh(scatter)
    values, vectors = values.flip(0).clamp(min=0.0), vectors.flip(1)
    if values[0] <= 0.0:
        raise ValueError("a layer gives the same features for every frame")
    before = (values.cumsum(0) - values) / values.sum()  # share of the variance in the components before each
    kept = (values > NULL_VARIANCE * values[0]) & (before < variance)
    return vectors[:, kept] / values[kept].sqrt()
