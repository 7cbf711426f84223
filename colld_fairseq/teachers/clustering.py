"""k-means over a stream of frames: scikit-learn's MiniBatchKMeans on standardised features."""

import numpy as np
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans

INIT_TRIES = 3  # k-means++ starts on the first sample; the best one goes on
INIT_ITERATIONS = 20


class FrameClustering:
    """Clusters frames [N, D] that come in buffers: `start` with the first, `update` with all.

    Channels are brought to mean 0 and variance 1 (of the first buffer), so that a few channels of large scale
    do not decide alone; layers of Whisper and of pre-norm teachers have such channels.
    """

    def __init__(self, num_clusters: int, seed: int):
        self.num_clusters, self.seed = num_clusters, seed
        self.mean = self.std = self.model = None

    def start(self, sample: np.ndarray) -> None:
        """Mean, variance and first centroids (k-means++ and Lloyd's iterations) from a sample [N, D]."""
        self.mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        std = sample.std(axis=0, dtype=np.float64).astype(np.float32)
        self.std = np.where(std > 0, std, np.float32(1))
        first = KMeans(
            self.num_clusters, n_init=INIT_TRIES, max_iter=INIT_ITERATIONS, random_state=self.seed
        ).fit(self.standardised(sample))
        # no random reassignment of small clusters: the last one would stay a random frame in the codebook
        self.model = MiniBatchKMeans(
            self.num_clusters,
            init=first.cluster_centers_,
            n_init=1,
            reassignment_ratio=0.0,
            random_state=self.seed,
        )

    def standardised(self, frames: np.ndarray) -> np.ndarray:
        return (frames - self.mean) / self.std

    def update(self, frames: np.ndarray) -> float:
        """One mini-batch step; returns the inertia of the frames, summed."""
        return float(self.model.partial_fit(self.standardised(frames)).inertia_)

    @property
    def centroids(self) -> torch.Tensor:
        """[C, D], of standardised features."""
        return torch.from_numpy(np.ascontiguousarray(self.model.cluster_centers_, dtype=np.float32))
