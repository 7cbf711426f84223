"""How sure a difference between systems is: the paired bootstrap over utterances (Koehn 2004; Bisani and Ney 2004).

The utterances of a test set are drawn anew, with replacement, as often as there are utterances, and all systems are
scored on the same draw: what is easy or hard for all of them cancels out. Sentence statistics of several seeds are
added up first, utterance by utterance: an utterance is drawn with all its runs, so that seeds do not pass for more
data.
"""

from typing import Dict, Mapping, NamedTuple

import numpy as np

from colld_fairseq.errors import ConfigError
from colld_fairseq.scoring.metrics import STATISTICS_SIZE, chrf_of, error_rates_of

RESAMPLES = 10_000
_AT_ONCE = 1_000  # draws, for memory: counts float64 [draws, utterances]
# Of sums of sentence statistics [..., STATISTICS_SIZE], in percent.
MEASURES = {
    "wer": lambda statistics: error_rates_of(statistics)[0],
    "cer": lambda statistics: error_rates_of(statistics)[1],
    "chrf": chrf_of,
}
LOWER_IS_BETTER = {"wer": True, "cer": True, "chrf": False}


class Interval(NamedTuple):
    """A value of the whole test set and the interval that 95 % of the draws lie in."""

    value: float
    low: float
    high: float


class Resampled(NamedTuple):
    """A score of a system: on the test set, and float64 [R] on each draw."""

    value: np.ndarray
    draws: np.ndarray


def resampled_scores(
    systems: Mapping[str, np.ndarray], measure: str, resamples: int = RESAMPLES, seed: int = 1
) -> Dict[str, Resampled]:
    """The score of every system on the test set and on `resamples` draws, the same draws for all.

    Args:
        systems: name -> sentence statistics, float64 [U, STATISTICS_SIZE] of `metrics.sentence_statistics`, of the same
            U utterances in the same order; those of several seeds added up.
        measure: wer, cer or chrf.

    Raises ConfigError: an unknown measure, no utterance, or systems that were scored on other utterances.
    """
    if measure not in MEASURES:
        raise ConfigError(f"measure {measure!r}: choose one of {', '.join(MEASURES)}")
    shapes = {name: statistics.shape for name, statistics in systems.items()}
    if len(set(shapes.values())) != 1:
        raise ConfigError(f"the systems were not scored on the same utterances: {shapes}")
    count, size = next(iter(shapes.values()))
    if not count or size != STATISTICS_SIZE:
        raise ConfigError(f"sentence statistics must be [utterances, {STATISTICS_SIZE}], not [{count}, {size}]")
    score, generator = MEASURES[measure], np.random.default_rng(seed)
    draws: Dict[str, list] = {name: [] for name in systems}
    for start in range(0, resamples, _AT_ONCE):
        times = draw(generator, count, min(_AT_ONCE, resamples - start))
        for name, statistics in systems.items():
            draws[name].append(score(times @ statistics))
    return {
        name: Resampled(score(statistics.sum(0)), np.concatenate(draws[name])) for name, statistics in systems.items()
    }


def draw(generator: np.random.Generator, count: int, draws: int) -> np.ndarray:
    """How often each of `count` utterances is drawn in each of `draws` draws: float64 [draws, count], rows sum to
    `count`."""
    return generator.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)


def gain(measure: str, system: Resampled, baseline: Resampled) -> Resampled:
    """By how much the system is better than the baseline, in percent of the baseline's score; > 0 = better."""
    sign = -1.0 if LOWER_IS_BETTER[measure] else 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return Resampled(*(100 * sign * (ours / theirs - 1) for ours, theirs in zip(system, baseline)))


def interval(result: Resampled, share: float = 0.95) -> Interval:
    """Value and percentile interval; draws without a score (of empty references alone) are left out."""
    draws = result.draws[np.isfinite(result.draws)]
    if not len(draws):
        return Interval(float(result.value), float("nan"), float("nan"))
    low, high = np.quantile(draws, [(1 - share) / 2, (1 + share) / 2])
    return Interval(float(result.value), float(low), float(high))
