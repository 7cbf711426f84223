"""Verdicts: does a comparison hold, fail, or is it undecided here? From raw hypotheses, with the paired bootstrap."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from colld_fairseq.data.manifest import read_manifests
from colld_fairseq.data.text import TextNormalizer
from colld_fairseq.errors import ColldError
from colld_fairseq.scoring.bootstrap import SCORES, gain, interval, resampled_scores
from colld_fairseq.scoring.measures import LOWER_IS_BETTER
from colld_fairseq.scoring.metrics import sentence_statistics
from colld_fairseq.scoring.sentences import read_generate_output
from examples.campaign.plan import Comparison

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided here"
RESAMPLES = 10_000


class Effect(NamedTuple):
    """Of the whole test set, and the interval that 95 % of the draws lie in; NaN where no draw has a score."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Decoded:
    """A file of hypotheses, with what it is scored by."""

    hypotheses: Path
    manifest: Path
    scoring: Tuple[str, ...] = ()


@cache  # a system is in several comparisons
def statistics_of(decoded: Decoded) -> np.ndarray:
    """float64 [U, STATISTICS_SIZE], in the order of the manifest. Raises ColldError where a row is missing."""
    manifest, scoring = read_manifests(str(decoded.manifest)), decoded.scoring
    references = "--references" in scoring and scoring[scoring.index("--references") + 1]
    normalize = TextNormalizer("--lowercase" in scoring, "--remove-punctuation" in scoring)
    sentences = read_generate_output(str(decoded.hypotheses), manifest, references == "manifest")
    return np.stack([
        sentence_statistics(normalize(one.hypothesis), normalize(one.reference), one.tgt_lang) for one in sentences
    ])  # fmt: skip


@dataclass
class Verdict:
    """Of one comparison. effect: the gain in percent (of the best baseline), or the difference of two gains; None where
    it could not be scored. reasons: why it is undecided, and what is to be known beside it."""

    comparison: Comparison
    verdict: str
    baseline: str = ""
    effect: Optional[Effect] = None
    scores: Dict[str, float] = field(default_factory=dict)
    seeds: int = 0
    utterances: int = 0
    reasons: List[str] = field(default_factory=list)


def judge(
    comparison: Comparison,
    decoded: Mapping[str, Sequence[Decoded]],
    stopped: Mapping[str, str],
    resamples: int = RESAMPLES,
) -> Verdict:
    """The verdict of a comparison.

    decoded: system -> its hypotheses of the test set, one file for each seed; fewer where a seed is not there yet.
    stopped: system -> why a run of it was stopped for good.
    """
    minus = comparison.minus or ()
    names = list(dict.fromkeys((comparison.system, *comparison.baselines, *minus)))
    missing = [f"{name} was stopped ({stopped[name]})" for name in names if name in stopped]
    missing += [f"{name} is not there yet" for name in names if name not in stopped and not decoded.get(name)]
    missing = [reason for reason in missing if reason]
    counts = {len(decoded[name]) for name in names if decoded.get(name)}
    if not missing and len(counts) > 1:
        missing.append("the systems have not the same seeds yet")
    if missing:
        return Verdict(comparison, UNDECIDED, reasons=missing)
    try:
        statistics = {name: np.sum([statistics_of(one) for one in decoded[name]], axis=0) for name in names}
    except (ColldError, OSError) as error:
        return Verdict(comparison, UNDECIDED, reasons=[str(error)])
    if len({len(one) for one in statistics.values()}) > 1:
        return Verdict(comparison, UNDECIDED, reasons=["the systems were not scored on the same utterances"])
    measure = comparison.measure
    scores = {name: float(SCORES[measure](one.sum(0)[None])[0]) for name, one in statistics.items()}
    draws = {name: resampled_scores(one[None], (measure,), resamples)[measure] for name, one in statistics.items()}
    best = min if LOWER_IS_BETTER[measure] else max
    baseline = best(comparison.baselines, key=scores.__getitem__)
    pairs = [(comparison.system, baseline), *([minus] if minus else [])]
    values, drawn = ([gain(measure, of[a], of[b]) for a, b in pairs] for of in (scores, draws))
    result = effect_of(values[0] - sum(values[1:]), drawn[0] - sum(drawn[1:]))
    return Verdict(
        comparison,
        decide(result, comparison.within, comparison.smallest),
        baseline,
        result,
        scores,
        counts.pop(),
        len(statistics[comparison.system]),
    )


def effect_of(value: float, draws: np.ndarray) -> Effect:
    bounds = interval(draws) if np.isfinite(draws).any() else (np.nan, np.nan)
    return Effect(float(value), *bounds)


def decide(effect: Effect, within: Optional[float], smallest: float) -> str:
    """A gain holds where all of its interval is above 0, and fails where all of it is below the smallest gain that
    would matter. With `within`, a system that is to be no worse than so many percent holds or fails on that side of it
    where the whole interval lies."""
    if not (np.isfinite(effect.low) and np.isfinite(effect.high)):
        return UNDECIDED
    if within is not None:
        return HOLDS if effect.low > -within else FAILS if effect.high < -within else UNDECIDED
    return HOLDS if effect.low > 0 else FAILS if effect.high < smallest else UNDECIDED


def of_claim(verdicts: Sequence[Verdict]) -> str:
    """Of a claim: it fails where one of the comparisons that decide does, holds where all of them do."""
    deciding = {verdict.verdict for verdict in verdicts if verdict.comparison.decides}
    if FAILS in deciding:
        return FAILS
    return HOLDS if deciding == {HOLDS} else UNDECIDED
