"""The fit of a residual quantizer: scikit-learn's mini-batch k-means, one codebook after another."""

from typing import Callable, List, NamedTuple

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from colld_fairseq.errors import ConfigError

FEWEST_FRAMES = 10  # an entry of a codebook
STEP_FRAMES = 8192  # of a mini-batch
EPOCHS = 20  # over the frames, at most


class Fitted(NamedTuple):
    """codebooks [C, K, D] of normalized frames, mean and std [D], all float32; errors: with the first 1, 2, ...
    codebooks, mean squared over frames and normalized channels."""

    codebooks: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    errors: List[float]


def fit_codebooks(
    frames: np.ndarray, num_codebooks: int, num_codes: int, seed: int, advance: Callable[[], None] = lambda: None
) -> Fitted:
    """Codebooks of frames [N, D]; `advance` is called after each. The same seed and frames give the same numbers.

    Channels are brought to mean 0 and variance 1 first, so that a few channels of large scale do not decide alone.
    Raises ConfigError for too few frames.
    """
    if len(frames) < FEWEST_FRAMES * num_codes:
        raise ConfigError(
            f"{len(frames)} frames are too few for codebooks of {num_codes} ({FEWEST_FRAMES} frames each); give more"
            " audio, or fewer --num-codes"
        )
    mean = frames.mean(axis=0, dtype=np.float64).astype(np.float32)
    std = frames.std(axis=0, dtype=np.float64).astype(np.float32)
    std = np.where(std > 0, std, np.float32(1))
    residual, codebooks, errors = (frames - mean) / std, [], []
    for stage in range(num_codebooks):
        # No random reassignment of small clusters: the last one would stay a random frame in the codebook.
        model = MiniBatchKMeans(
            num_codes,
            n_init=1,
            max_iter=EPOCHS,
            batch_size=STEP_FRAMES,
            reassignment_ratio=0.0,
            random_state=seed + stage,
        )
        nearest = model.fit_predict(residual)
        entries = cluster_means(residual, nearest, model.cluster_centers_)
        residual = residual - entries[nearest]
        codebooks.append(entries)
        errors.append(float(np.square(residual, dtype=np.float64).mean()))
        advance()
    return Fitted(np.stack(codebooks), mean, std, errors)


def cluster_means(frames: np.ndarray, nearest: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """float32 [K, D]: the mean of the frames [N, D] of each cluster, or `otherwise` of one without frames. With means
    no codebook can leave more over than there was."""
    counts = np.bincount(nearest, minlength=len(otherwise))
    sums = np.zeros(otherwise.shape, dtype=np.float64)
    order = np.argsort(nearest, kind="stable")
    starts = np.cumsum(counts) - counts
    used = counts > 0
    sums[used] = np.add.reduceat(frames[order].astype(np.float64), starts[used], axis=0)
    return np.where(used[:, None], sums / np.maximum(counts, 1)[:, None], otherwise).astype(np.float32)
