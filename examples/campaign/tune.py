"""Choices made on the development set, for every system alike: short runs of each row, the best of which is picked."""

import json
import math
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

from colld_fairseq.files import write_atomically
from colld_fairseq.report.training_log import LogError, read_log
from colld_fairseq.tasks.plateau import error_rate
from examples.campaign.build import Builder, Run, choices_of, chosen
from examples.campaign.plan import Claim


class Tuning(NamedTuple):
    """The short runs of a system, one for each row of its choices."""

    claim: str
    system: str
    rows: List[dict]
    runs: List[Run]


def tuning_runs(builder: Builder, claim: Claim) -> List[Tuning]:
    """Of every system that has something to choose; with the claim's first seed."""
    tunings = []
    for system in claim.systems.values():
        rows = choices_of(claim, system)
        if len(rows) > 1:
            share, seed = builder.campaign.tuning_share, claim.seeds[0]
            runs = [builder.run(claim, chosen(system, row), seed, share) for row in rows]
            tunings.append(Tuning(claim.name, system.name, rows, runs))
    return tunings


def pick(out: Path, tunings: Sequence[Tuning]) -> Dict[str, int]:
    """ "CLAIM/SYSTEM" -> index of the row that did best; what they did is kept in OUT/choices.json."""
    picks, told = {}, {}
    for tuning in tunings:
        scores = [dev_score(out / f"{run.last}.log") for run in tuning.runs]
        key = f"{tuning.claim}/{tuning.system}"
        picks[key] = min(range(len(scores)), key=lambda index: scores[index])
        told[key] = {
            "picked": picks[key],
            "rows": [
                {"changes": row, "cer": finite(score[0]), "loss": finite(score[1]), "log": f"{run.last}.log"}
                for row, score, run in zip(tuning.rows, scores, tuning.runs)
            ],
        }
    write_atomically(out / "choices.json", json.dumps(told, indent=1).encode())
    return picks


def dev_score(log: Path) -> Tuple[float, float]:
    """Lowest CER of a run's validations; where runs have the same, as on a plateau, their lowest loss tells."""
    try:
        validations = read_log(log).validations
    except LogError:
        validations = []
    rates = [rate for rate in map(error_rate, validations) if rate is not None and math.isfinite(rate)]
    losses = [one["loss"] for one in validations if math.isfinite(one.get("loss", math.nan))]
    return min(rates, default=math.inf), min(losses, default=math.inf)


def finite(value: float):
    return value if math.isfinite(value) else None
