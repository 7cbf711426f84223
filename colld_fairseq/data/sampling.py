"""Temperature sampling over groups of rows: languages, corpora or both (arXiv:1907.05019).

Groups are read from the rows themselves, so one file may mix languages and one language may lie in many files.
"""

from typing import Optional, Sequence, Union

import numpy as np

from colld_fairseq.errors import ConfigError


def group_probabilities(counts: np.ndarray, alpha: float) -> np.ndarray:
    """p_group proportional to share ** alpha, from row counts [G]; 1 keeps the shares, 0 makes them equal."""
    if not 0.0 <= alpha <= 1.0:
        raise ConfigError(f"the sampling exponent alpha is {alpha}; it must lie between 0 (equal groups) and 1")
    weights = (counts / counts.sum()) ** alpha
    return weights / weights.sum()


def sampling_indices(
    keys: Union[np.ndarray, Sequence],
    alpha: float,
    epoch: int,
    seed: int,
    weights: Optional[np.ndarray] = None,
) -> np.ndarray:
    """Row indices of one epoch in random order, int64 [rows]; keys [rows] say which group a row belongs to.

    A group gets p_group * rows of them (rounded up or down so that the expectation is exact). Within a group rows
    repeat only after all of its rows were taken; alpha = 1 is a permutation of all rows. weights [G], of the groups in
    the order of their keys, take the place of alpha: p_group is proportional to them. Depends on (seed, epoch) only.
    """
    codes = np.unique(np.asarray(keys), return_inverse=True)[1]
    size = len(codes)
    if size == 0:
        raise ConfigError("there are no rows to sample from; give at least one")
    counts = np.bincount(codes)
    rng = np.random.default_rng([seed, epoch])
    # Systematic rounding: one offset for all groups keeps the sum at size and every expectation at p * size.
    if weights is None and alpha == 1.0:
        quota = counts
    else:
        chances = group_probabilities(counts, alpha) if weights is None else weights / weights.sum()
        ends = np.cumsum(chances) * size
        ends[-1] = size
        quota = np.diff(np.floor(ends + rng.random()).astype(np.int64), prepend=0)
    by_group = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])
    chosen = []
    for rows, wanted in zip(by_group, quota):
        copies, rest = divmod(int(wanted), len(rows))
        chosen += [rows] * copies + [rng.choice(rows, rest, replace=False)]
    return rng.permutation(np.concatenate(chosen)).astype(np.int64)
