"""How sure a score is, and a difference between systems: the bootstrap over utterances.

Utterances are drawn with replacement, as many as there are, and the corpus score of every draw is computed from its
summed counts (Efron 1979). Two systems are scored on the same draws, so that what is easy or hard for both cancels out
(Koehn 2004; Bisani and Ney 2004). The draws and the bounds are sacrebleu's, so that intervals of BLEU and chrF are
those of its `--confidence`.

The draws say how much a score depends on which utterances were tested, not what another seed of training would give. An
utterance is drawn with all its seeds, so that these do not pass for more data.
"""

from typing import Dict, NamedTuple, Sequence

import numpy as np

from colld_fairseq.scoring.measures import LOWER_IS_BETTER
from colld_fairseq.scoring.metrics import chrf_of, compute_scores, error_rates_of

SEED = 12345  # sacrebleu's
RESAMPLES = 1000  # likewise
_ROWS = 50  # draws held in memory at a time

# Percent, [R], of summed counts [R, S]; NaN where the references hold no word.
SCORES = {
    "wer": lambda sums: error_rates_of(sums)[0],
    "cer": lambda sums: error_rates_of(sums)[1],
    "bleu": lambda sums: np.array([compute_scores(one).bleu for one in sums]),
    "chrf": chrf_of,
}


class Interval(NamedTuple):
    """95 % of the draws lie from `low` to `high`, both included."""

    low: float
    high: float


class Comparison(NamedTuple):
    """A system minus its baseline, in the measure's own unit; `p` as in `compare`."""

    difference: float
    interval: Interval
    p: float


def resampled_sums(statistics: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Counts of N utterances (of `metrics.sentence_statistics`) [..., N, S] as sums over draws [..., resamples, S]."""
    utterances = statistics.shape[-2]
    generator = np.random.default_rng(seed)
    sums = []
    for start in range(0, resamples, _ROWS):
        rows = generator.choice(utterances, size=(min(_ROWS, resamples - start), utterances), replace=True)
        counts = np.stack([np.bincount(row, minlength=utterances) for row in rows])
        sums.append(counts.astype(np.float64) @ statistics)
    return np.concatenate(sums, axis=-2)


def resampled_scores(
    statistics: np.ndarray, measures: Sequence[str], resamples: int = RESAMPLES, seed: int = SEED
) -> Dict[str, np.ndarray]:
    """Scores of the draws, [resamples] of each measure (wer, cer, bleu or chrf), from counts [seeds, N, S]: means over
    the seeds of training.

    NaN where the references of a draw hold no word.
    """
    sums = resampled_sums(statistics, resamples, seed)
    return {name: np.mean([SCORES[name](draws) for draws in sums], axis=0) for name in measures}


def interval(samples: np.ndarray) -> Interval:
    """Bounds of scores of draws [resamples]; those that are NaN are left out. ValueError if none is left."""
    samples = np.sort(samples[np.isfinite(samples)])
    if not len(samples):
        raise ValueError("no draw has a score")
    outside = len(samples) // 40
    return Interval(float(samples[outside]), float(samples[len(samples) - 1 - outside]))


def compare(system: np.ndarray, baseline: np.ndarray, difference: float) -> Comparison:
    """Two systems by their scores of the same draws, [resamples] each; `difference`: of their scores on the test set.

    p, two-sided: twice the share of draws whose difference has the other sign or is 0 (of either sign, whichever has
    fewer); one draw is added to both counts, so that it is never 0. It agrees with the interval.
    """
    differences = system - baseline
    differences = differences[np.isfinite(differences)]
    bounds = interval(differences)
    fewer = min((differences <= 0).sum(), (differences >= 0).sum())
    return Comparison(difference, bounds, min(1.0, float(2 * (fewer + 1) / (len(differences) + 1))))


def gain(measure: str, system: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """By how much scores of a system [...] are better than those of its baseline, in percent of these; > 0 = better."""
    sign = -1.0 if LOWER_IS_BETTER[measure] else 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * sign * (np.asarray(system) / np.asarray(baseline) - 1)
