"""Bootstrap intervals of corpus scores, and of the difference between two systems on the same utterances.

Utterances are drawn with replacement, as many as there are, and the corpus score of every draw is computed from its
summed counts (Efron 1979; of two systems with the same draws: Koehn 2004, Bisani and Ney 2004). The draws and the
bounds are sacrebleu's, so that intervals of BLEU and chrF are those of its `--confidence`.

The draws say how much a score depends on which utterances were tested. They do not say what another seed of training
would give: of several seeds the mean score of the same draw counts. `bootstrap.py` has relative gains, more draws and
no BLEU, for the verdicts of campaigns.
"""

from typing import Dict, NamedTuple, Sequence

import numpy as np

from colld_fairseq.scoring.metrics import compute_scores

SEED = 12345  # sacrebleu's
RESAMPLES = 1000  # likewise
_ROWS = 50  # draws held in memory at a time


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
    """Scores of the draws, [resamples] of each measure, from counts [seeds, N, S]: means over the seeds of training.

    NaN where the references of a draw hold no word.
    """
    sums = resampled_sums(statistics, resamples, seed)
    scores = [[compute_scores(one) for one in draws] for draws in sums]
    values = {name: np.array([[getattr(one, name) for one in draws] for draws in scores], float) for name in measures}
    return {name: value.mean(axis=0) for name, value in values.items()}


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
