"""k-means over a stream of frames: scikit-learn's MiniBatchKMeans on normalized features."""

from typing import Dict, Tuple

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans

from colld_fairseq.compat import estimator_state, restore_estimator

INIT_TRIES = 3  # k-means++ starts on the first sample; the best one goes on
INIT_ITERATIONS = 20
STEP_FRAMES = 8192  # of a mini-batch


class FrameClustering:
    """Clusters frames [N, D] that come in buffers: `start` with a first sample, then `update` with all.

    Channels are brought to mean 0 and variance 1 (of the sample), so that a few channels of large scale do not
    decide alone; layers of Whisper and of pre-norm teachers have such channels.

    Attributes: mean, std, float32 [D], None before `start`.
    """

    def __init__(self, num_clusters: int, seed: int):
        self.num_clusters, self.seed = num_clusters, seed
        self.mean = self.std = self.model = None

    @property
    def started(self) -> bool:
        return self.model is not None

    @property
    def centroids(self) -> np.ndarray:
        """float32 [C, D], of normalized features."""
        return np.ascontiguousarray(self.model.cluster_centers_, dtype=np.float32)

    def start(self, sample: np.ndarray) -> None:
        """Mean, variance and first centroids (k-means++ and Lloyd's iterations) from a sample [N, D]."""
        self.mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        std = sample.std(axis=0, dtype=np.float64).astype(np.float32)
        self.std = np.where(std > 0, std, np.float32(1))
        first = KMeans(self.num_clusters, n_init=INIT_TRIES, max_iter=INIT_ITERATIONS, random_state=self.seed)
        self.model = self._model(first.fit(self._normalized(sample)).cluster_centers_)

    def update(self, frames: np.ndarray, measure: bool = False) -> float:
        """Mini-batch steps on frames [N, D]; returns their inertia, summed, if it is to be measured."""
        self.model.set_params(compute_labels=measure)
        inertia = 0.0
        for start in range(0, len(frames), STEP_FRAMES):
            self.model.partial_fit(self._normalized(frames[start : start + STEP_FRAMES]))
            inertia += float(self.model.inertia_) if measure else 0.0
        return inertia

    def state(self) -> Tuple[Dict[str, np.ndarray], Dict]:
        """(arrays, plain values) that `restore` needs to go on with the same numbers."""
        arrays, values = {"mean": self.mean, "std": self.std}, {}
        for name, value in estimator_state(self.model).items():
            if isinstance(value, np.ndarray):
                arrays[f"model.{name}"] = np.ascontiguousarray(value)
            elif isinstance(value, (bool, int, float, str)):
                values[name] = value
        return arrays, values

    def restore(self, arrays: Dict[str, np.ndarray], values: Dict) -> None:
        """Goes back to a `state`."""
        self.mean, self.std = arrays["mean"], arrays["std"]
        model = {name[len("model.") :]: value for name, value in arrays.items() if name.startswith("model.")}
        self.model = self._model("k-means++")
        restore_estimator(self.model, {**values, **model})

    def _model(self, centroids) -> MiniBatchKMeans:
        # no random reassignment of small clusters: the last one would stay a random frame in the codebook.
        # Nothing after the first centroids is random then, so a state needs no generator.
        settings = dict(n_init=1, reassignment_ratio=0.0, random_state=self.seed)
        return MiniBatchKMeans(self.num_clusters, init=centroids, **settings)

    def _normalized(self, frames: np.ndarray) -> np.ndarray:
        return (frames - self.mean) / self.std
