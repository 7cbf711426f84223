"""Reads what fairseq-train writes with --log-format json, whether by --log-file or on standard output."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

# Of lines on standard output, as fairseq and as hydra's logging write them.
_PREFIX = re.compile(r"^(?:[\d-]+ [\d:]+ \| [A-Z]+ \| [\w.]+ \| |\[[\d-]+ [\d:,]+\]\[[\w.]+\]\[[A-Z]+\] - )")


class LogError(ValueError):
    """A log that cannot be used; the message says which and why."""


@dataclass
class TrainingLog:
    """One training run, its restarts included.

    updates: done in all; seconds: of wall clock, validation included.
    validations: one dictionary a validation, by rising `num_updates`: the metrics without the subset's name,
        as floats, and the `seconds` at the last line of training before it.
    """

    updates: int = 0
    seconds: float = 0.0
    validations: List[Dict[str, float]] = field(default_factory=list)

    def _add(self, record: Dict[str, Any]) -> None:
        """A line of training (with or without `train_` before its metrics), or of a validation (with the subset)."""
        prefix = next((key.removesuffix("num_updates") for key in record if key.endswith("num_updates")), None)
        if prefix is None:
            return
        metrics = {key.removeprefix(prefix): _number(value) for key, value in record.items() if key.startswith(prefix)}
        training = prefix in ("", "train_")
        self._progress(metrics["num_updates"], metrics.get("wall") if training else None)
        if not training:
            if self.validations and self.validations[-1]["num_updates"] == metrics["num_updates"]:
                self.validations.pop()
            self.validations.append({**metrics, "seconds": self.seconds})

    def _progress(self, updates: float, wall: Optional[float]) -> None:
        """A run that was restarted writes some updates twice: what it says last counts."""
        updates = int(updates)
        if updates < self.updates:
            self.validations = [v for v in self.validations if v["num_updates"] < updates]
        self.updates = updates
        if wall is not None:
            self.seconds = wall


def read_log(path: Path) -> TrainingLog:
    """The run that wrote `path`. Raises LogError: not readable, or without lines in JSON."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise LogError(f"{path}: cannot be read ({error.strerror})") from error
    log, any_line = TrainingLog(), False
    for line in lines:
        line = _PREFIX.sub("", line)
        if line.startswith('{"'):  # not the configuration, which is no JSON
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # the last line of a killed run
                continue
            log._add(record)
            any_line = True
    if not any_line:
        raise LogError(f"{path}: holds no figures; train with --log-format json --log-file {path}")
    return log


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
