"""Intervals and paired comparisons, beside sacrebleu's own and beside draws made one by one."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from colld_fairseq.scoring.metrics import STATISTICS_SIZE, compute_scores, sentence_statistics
from colld_fairseq.scoring.sacrebleu_bootstrap import (
    RESAMPLES,
    SEED,
    Interval,
    compare,
    interval,
    resampled_scores,
    resampled_sums,
)

WORDS = "the a cat dog sits stands on under mat table red blue very old and new".split()


def spoiled(sentences, share, seed):
    """The sentences with this share of words replaced."""
    generator = np.random.default_rng(seed)
    return [" ".join(w if generator.random() > share else "oops" for w in one.split()) for one in sentences]


@pytest.fixture(scope="module")
def references():
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, size=generator.integers(4, 15))) for _ in range(60)]


def counts(hypotheses, references):
    return np.array([sentence_statistics(*pair, "en") for pair in zip(hypotheses, references, strict=True)])


def test_bleu_and_chrf_are_sacrebleus(references):
    """Its test reports the mean of the draws and half the width of their interval."""
    systems = {"a": spoiled(references, 0.3, 1), "b": spoiled(references, 0.4, 2)}
    _, theirs = PairedTest(list(systems.items()), {"BLEU": BLEU(), "CHRF": CHRF()}, [references], "bs")()
    for row, hypotheses in enumerate(systems.values()):
        ours = resampled_scores(counts(hypotheses, references)[None], ("bleu", "chrf"))
        for measure, column in (("bleu", "BLEU"), ("chrf", "chrF2")):
            low, high = interval(ours[measure])
            assert len(ours[measure]) == RESAMPLES
            assert ours[measure].mean() == pytest.approx(theirs[column][row].mean, abs=1e-4)
            assert (high - low) / 2 == pytest.approx(theirs[column][row].ci, abs=1e-4)


def test_draws_one_by_one(references):
    """Of WER and CER, with two seeds of training: drawn, summed and divided for each draw."""
    seeds = np.stack([counts(spoiled(references, 0.3, seed), references) for seed in (1, 2)])
    ours = resampled_scores(seeds, ("wer", "cer"), resamples=120)
    generator = np.random.default_rng(SEED)
    expected = []
    for _ in range(120):
        rows = generator.choice(len(references), size=len(references), replace=True)
        expected.append(np.mean([100 * one[rows, 3].sum() / one[rows, 4].sum() for one in seeds]))
    np.testing.assert_allclose(ours["wer"], expected)
    expected = sorted(expected)
    assert interval(ours["wer"]) == pytest.approx((expected[3], expected[-4]))  # 3 of 120 on either side


def test_sums_do_not_depend_on_how_many_are_drawn_at_a_time(references):
    statistics = counts(spoiled(references, 0.2, 1), references)
    rows = np.random.default_rng(7).choice(len(references), size=(130, len(references)), replace=True)
    np.testing.assert_allclose(resampled_sums(statistics, 130, seed=7), statistics[rows].sum(axis=1))


def test_a_difference_and_its_sign(references):
    a, b = (counts(spoiled(references, share, 3), references) for share in (0.1, 0.5))
    of = [resampled_scores(one[None], ("wer",))["wer"] for one in (a, b)]
    difference = compute_scores(a.sum(0)).wer - compute_scores(b.sum(0)).wer
    result = compare(*of, difference)
    assert result.difference == difference < 0 and result.interval.high < 0
    assert result.p == pytest.approx(2 / 1001)  # no draw says otherwise
    low, high = result.interval
    assert compare(*of[::-1], -difference).interval == pytest.approx((-high, -low))


def test_p_of_two_systems_that_are_alike():
    """Half a percent of difference of draws that scatter by one: twice the share of a normal distribution beyond it."""
    draws = np.random.default_rng(0).normal(0.5, 1.0, 20000)
    result = compare(draws, np.zeros(20000), 0.5)
    assert result.p == pytest.approx(0.617, abs=0.01) and result.interval.low < 0 < result.interval.high
    assert compare(np.zeros(100), np.zeros(100), 0.0).p == 1.0


def test_how_often_the_interval_holds_the_truth():
    """Of many test sets from one source of known error rate."""
    generator, held = np.random.default_rng(0), 0
    for _ in range(100):
        statistics = np.zeros((1, 80, STATISTICS_SIZE))
        statistics[0, :, 0], statistics[0, :, 4], statistics[0, :, 6] = 1, 10, 1
        statistics[0, :, 3] = generator.binomial(10, 0.2, 80)
        low, high = interval(resampled_scores(statistics, ("wer",), 120)["wer"])
        held += low <= 20 <= high
    assert 88 <= held <= 99


def test_draws_without_a_word():
    assert interval(np.array([np.nan, 1.0, 2.0])) == Interval(1.0, 2.0)
    with pytest.raises(ValueError, match="no draw"):
        interval(np.array([np.nan]))
