"""Audio files named one by one, with the reading interface of a manifest."""

from typing import Optional, Sequence

import numpy as np

from colld_fairseq.data.manifest import Row
from colld_fairseq.data.stored_fbank import is_stored_fbank


class PathRows:
    """Rows of audio paths (`file` or `archive.zip:offset:length`) and their lengths in samples at 16 kHz.

    ids: names of the rows; the paths themselves where none are given.
    """

    path = "interactive"
    has_text = False

    def __init__(self, paths: Sequence[str], n_samples: Sequence[int], ids: Optional[Sequence[str]] = None) -> None:
        self.paths = list(paths)
        self.n_samples = np.asarray(n_samples, dtype=np.int64)
        self.stored_fbank = np.array([bool(is_stored_fbank(path)) for path in self.paths], dtype=bool)
        self.ids = self.paths if ids is None else list(ids)

    def __len__(self) -> int:
        return len(self.paths)

    def audio_path(self, index: int) -> str:
        return self.paths[index]

    def row(self, index: int) -> Row:
        kind = "fbank" if self.stored_fbank[index] else "waveform"
        return Row(id=self.ids[index], audio=self.paths[index], n_samples=int(self.n_samples[index]), kind=kind)
