"""From the sums that criterions log of a batch to the means of an interval."""

import math
from typing import Dict

from fairseq.logging import metrics


def sum_logs(logging_outputs) -> Dict[str, float]:
    """Sums over batches and workers; names with an underscore in front are fairseq's business or a task's."""
    totals: Dict[str, float] = {}
    for log in logging_outputs:
        for name, value in log.items():
            if not name.startswith("_"):
                totals[name] = totals.get(name, 0.0) + float(value)
    return totals


def log_means(totals: Dict[str, float], count: str, *names: str) -> None:
    """Log the sums `names`, as far as they are there, divided by the sum `count`: infinity where nothing was counted,
    not to be taken for a loss of 0. It has no weight beside other batches."""
    size = totals[count]
    for name in names:
        if name in totals:
            metrics.log_scalar(name, totals[name] / size if size else math.inf, size, round=4)


def log_speed(totals: Dict[str, float]) -> None:
    metrics.log_speed("audio_x", totals["audio_seconds"], priority=85, round=1)  # seconds of audio per second
