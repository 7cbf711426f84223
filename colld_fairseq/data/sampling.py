"""Temperature sampling over groups of rows: languages, corpora or both (arXiv:1907.05019).

Groups are read from the rows themselves, so one file may mix languages and one language may lie in many
files.
"""

from typing import Optional, Sequence, Tuple, Union

import numpy as np

from colld_fairseq.errors import ConfigError

Keys = Union[np.ndarray, Sequence]


def group_codes(keys: Union[Keys, Tuple[Keys, ...]]) -> np.ndarray:
    """Group number of every row, int64 [rows]; a tuple of columns groups by their combination."""
    columns = keys if isinstance(keys, tuple) else (keys,)
    codes = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        values, column_codes = np.unique(np.asarray(column), return_inverse=True)
        codes = np.unique(codes * len(values) + column_codes, return_inverse=True)[1]
    return codes


def group_probabilities(counts: np.ndarray, alpha: float) -> np.ndarray:
    """p_group proportional to share ** alpha, from row counts [G]; 1 keeps the shares, 0 makes them equal."""
    if not 0.0 <= alpha <= 1.0:
        raise ConfigError(f"the sampling exponent alpha is {alpha}; it must lie between 0 (equal groups) and 1")
    weights = (counts / counts.sum()) ** alpha
    return weights / weights.sum()


def sampling_indices(
    keys: Union[Keys, Tuple[Keys, ...]],
    alpha: float,
    epoch: int,
    seed: int,
    size: Optional[int] = None,
    weights: Optional[np.ndarray] = None,
) -> np.ndarray:
    """Row numbers of one epoch in random order, int64 [size] (default: as many as there are rows).

    A group gets p_group * size rows (rounded up or down so that the expectation is exact). Within a group
    rows repeat only after all of its rows were taken, so no row is seen twice while another is missing, and
    alpha = 1 with the default size is a permutation of all rows. weights [G], of the groups in the order of their
    keys, take the place of alpha: p_group is proportional to them. Depends on (seed, epoch) only.
    """
    codes = group_codes(keys)
    size = len(codes) if size is None else size
    if len(codes) == 0 or size < 0:
        raise ConfigError(f"cannot sample {size} rows from {len(codes)}; give at least one row and a size of 0 or more")
    counts = np.bincount(codes)
    rng = np.random.default_rng([seed, epoch])
    # Systematic rounding: one offset for all groups keeps the sum at size and every expectation at p * size.
    if weights is None and alpha == 1.0 and size == len(codes):
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
