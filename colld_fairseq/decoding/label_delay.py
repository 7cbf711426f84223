"""How much later a streaming mode says its labels than the mode with full context, in frames and in milliseconds."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence

import numpy as np


@dataclass
class LabelDelay:
    """Of one latency. The same labels are aligned in both modes (`forced_alignment`): what differs is when they come.

    Args:
        frame_ms: from one encoder frame to the next.
        chunk: frames of a chunk, whose last one is there before any of its labels can be; None: the whole utterance.
        right: frames after it that have to be there as well.
    """

    frame_ms: float
    chunk: Optional[int]
    right: int = 0
    shifts: List[int] = field(default_factory=list)
    """Per label: frames from where it stands with full context to where it stands in the streaming mode."""

    waits: List[int] = field(default_factory=list)
    """Per label: frames from where it begins with full context to the end of the chunk that says it, and of its right
    context."""

    def add(self, streaming: Sequence[int], full: Sequence[int]) -> None:
        """The frames of an utterance's labels in both modes."""
        for late, early in zip(streaming, full, strict=True):
            self.shifts.append(late - early)
            if self.chunk is not None:
                self.waits.append((late // self.chunk + 1) * self.chunk + self.right - early)

    def summary(self) -> Dict[str, Any]:
        """Labels, mean and 90th percentile of shifts and waits in milliseconds; None where there is nothing."""
        return {
            "labels": len(self.shifts),
            **self._statistics("shift", self.shifts),
            **self._statistics("wait", self.waits),
        }

    def _statistics(self, name: str, frames: Sequence[int]) -> Dict[str, Optional[float]]:
        mean, late = (float(np.mean(frames)), float(np.percentile(frames, 90))) if len(frames) else (None, None)
        return {
            f"{name}_ms": None if mean is None else mean * self.frame_ms,
            f"{name}_90_ms": None if late is None else late * self.frame_ms,
        }
