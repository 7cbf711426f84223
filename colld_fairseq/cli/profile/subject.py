"""What `colld profile` measures."""

from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np


@dataclass
class Subject:
    """A model to measure.

    run: float32 waveforms [B, N] in memory -> features of the last layer [B, T, D] on the device, or what a graph makes
        of them.
    parameters: those of the encoder alone; stored_bytes: what they take in the file they were read from; of a graph,
        the file.
    in_torch: whether torch runs it: else neither multiply-accumulates nor memory are counted.
    largest_batch: utterances that it takes at once, None = any.
    """

    role: str
    source: str
    run: Callable[[np.ndarray], Any]
    parameters: int
    stored_bytes: int
    layers: int
    width: int
    frame_rate_hz: float
    in_torch: bool = True
    largest_batch: Optional[int] = None
