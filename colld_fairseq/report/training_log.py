"""Reads what fairseq-train writes with --log-format json, whether by --log-file or on standard output."""

import ast
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Set

from colld_fairseq.errors import ColldError
from colld_fairseq.parsing import parse_json

# Of lines on standard output, as fairseq and as hydra's logging write them.
_PREFIX = re.compile(r"^(?:[\d-]+ [\d:]+ \| [A-Z]+ \| [\w.]+ \| |\[[\d-]+ [\d:,]+\]\[[\w.]+\]\[[A-Z]+\] - )")


class LogError(ColldError):
    """A log that cannot be used; the message says which and why."""


@dataclass
class TrainingLog:
    """One training run, its restarts included.

    updates: done in all; seconds: of wall clock, validation included.
    validations: one dictionary a validation, by rising `num_updates`: the metrics without the subset's name,
        as floats, and the `seconds` at the last line of training before it. Of several subsets those of the first, by
        which fairseq chooses its best checkpoint.
    training: one dictionary per line of training, likewise; of an epoch as a whole only where it has no other line.
    config: fairseq's configuration by groups, of the last start; empty where the log does not tell it.
    """

    updates: int = 0
    seconds: float = 0.0
    validations: List[Dict[str, float]] = field(default_factory=list)
    training: List[Dict[str, float]] = field(default_factory=list)
    config: Dict[str, Any] = field(default_factory=dict)
    _epochs: Set[Any] = field(default_factory=set)  # that have lines of training of their own
    _subset: str = field(default="", repr=False)  # that the last of the validations is of

    def _add(self, record: Dict[str, Any]) -> None:
        """A line of training (with or without `train_` before its metrics), or of a validation (with the subset)."""
        prefix = next((key.removesuffix("num_updates") for key in record if key.endswith("num_updates")), None)
        if prefix is None:
            return
        metrics = {key.removeprefix(prefix): _number(value) for key, value in record.items() if key.startswith(prefix)}
        training = prefix in ("", "train_")
        if not math.isfinite(metrics["num_updates"]):
            return
        self._progress(metrics["num_updates"], metrics.get("wall") if training else None)
        if training:
            epoch, last = record.get("epoch"), self.training[-1]["num_updates"] if self.training else -1
            if prefix == "":
                self._epochs.add(epoch)
            if prefix == "" or (epoch not in self._epochs and last < metrics["num_updates"]):
                self.training.append(metrics)
        else:
            self._add_validation(prefix, {**metrics, "seconds": self.seconds})

    def _add_validation(self, subset: str, metrics: Dict[str, float]) -> None:
        if self.validations and self.validations[-1]["num_updates"] == metrics["num_updates"]:
            if subset != self._subset:  # a further one
                return
            self.validations.pop()
        self._subset = subset
        self.validations.append(metrics)

    def _progress(self, updates: float, wall: Optional[float]) -> None:
        """A run that was restarted writes some updates twice: what it says last counts."""
        updates = int(updates)
        if updates < self.updates:
            self.validations = [v for v in self.validations if v["num_updates"] < updates]
            self.training = [v for v in self.training if v["num_updates"] < updates]
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
                record = parse_json(line)
            except ValueError:  # the last line of a killed run
                continue
            log._add(record)
            any_line = True
        elif line.startswith("{'_name': "):
            log.config = _configuration(line) or log.config
    if not any_line:
        raise LogError(f"{path}: holds no figures; train with --log-format json --log-file {path}")
    return log


def _configuration(line: str) -> Dict[str, Any]:
    """The configuration that fairseq logs as Python's literals, but for choices, which are bare words; empty where it
    holds anything else."""
    try:
        config = _literal(ast.parse(line.strip(), mode="eval").body)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _literal(node: ast.AST) -> Any:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Dict):
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(one) for one in node.elts]
    return ast.literal_eval(node)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
