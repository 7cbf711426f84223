"""Losses of unlike size, each divided by the running mean of its own.

Features of two teachers differ in width, in range and in how well they can be predicted, and so do the losses of
learning them: the largest loss then decides what a student learns, not the largest weight. Divided by its own running
mean every loss is about 1, and weights are shares.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Mapping


@dataclass
class LossScales:
    """Means per frame of the losses with these names.

    running: over the last updates; start: of the first update that had the loss, which never changes, so that what is
    divided by it compares over a whole run; counts: updates in `running`.
    """

    running: Dict[str, float] = field(default_factory=dict)
    start: Dict[str, float] = field(default_factory=dict)
    counts: Dict[str, int] = field(default_factory=dict)

    def add(self, name: str, mean: float, updates: int) -> None:
        """The mean of one more update, over all workers. updates: how many `running` is to be a mean of; the oldest
        fade out. A loss that is 0 or not finite is left out: nothing can be divided by it."""
        if not (math.isfinite(mean) and mean > 0):
            return
        count = self.counts[name] = min(self.counts.get(name, 0) + 1, updates)
        before = self.running.get(name, 0.0)
        self.running[name] = before + (mean - before) / count
        self.start.setdefault(name, mean)

    def state(self) -> Dict[str, Any]:
        """Plain values, for a checkpoint."""
        return asdict(self)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to a `state`; to nothing, where that is empty."""
        self.running, self.start, self.counts = (dict(state.get(name, {})) for name in ("running", "start", "counts"))
