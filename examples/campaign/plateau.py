"""Stops runs that learn nothing, by their logs: `colld_fairseq.tasks.plateau` says which those are."""

from pathlib import Path
from typing import Optional

from colld_fairseq.report.training_log import LogError, read_log
from colld_fairseq.tasks.plateau import Plateau, plateau
from examples.driver.jobs import Job


class PlateauWatch:
    """The `watch` of `run_jobs`: why a training run is to be stopped for good."""

    def __init__(self, rule: Plateau) -> None:
        self.rule = rule

    def __call__(self, out: Path, job: Job) -> Optional[str]:
        log = out / f"{job.name}.log"
        return None if job.updates is None or not log.is_file() else plateau_of(log, job.updates, self.rule)


def plateau_of(log: Path, updates: int, rule: Plateau) -> Optional[str]:
    """What the log of a run of so many updates says of its plateau; None where nothing is logged yet, too."""
    try:
        return plateau(read_log(log).validations, updates, rule)
    except LogError:
        return None
