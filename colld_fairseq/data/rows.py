"""Audio files named one by one, with the reading interface of a manifest (for fairseq-interactive)."""
from typing import Sequence

import numpy as np

from colld_fairseq.data.manifest import Row


class PathRows:
    """Rows of audio paths (`file` or `archive.zip:offset:length`) and their lengths in samples at 16 kHz."""

    path = "interactive"
    has_text = False

    def __init__(self, paths: Sequence[str], n_samples: Sequence[int]) -> None:
        self.paths = list(paths)
        self.n_samples = np.asarray(n_samples, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def row(self, index: int) -> Row:
        return Row(id=self.paths[index], audio=self.paths[index], n_samples=int(self.n_samples[index]))
