"""Intervals and paired comparisons, beside sacrebleu's own, beside draws made one by one, and beside every draw of a
small test set."""

import itertools

import jiwer
import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from colld_fairseq.scoring.bootstrap import (
    RESAMPLES,
    SEED,
    Interval,
    compare,
    gain,
    interval,
    resampled_scores,
    resampled_sums,
)
from colld_fairseq.scoring.metrics import STATISTICS_SIZE, compute_scores, sentence_statistics

WORDS = "the a cat dog sits stands on under mat table été на улице old and new".split()


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


def of_words(errors, words):
    """Counts [N, S] of utterances with so many word errors, and as many characters."""
    statistics = np.zeros((len(words), STATISTICS_SIZE))
    statistics[:, 0] = 1
    statistics[:, 3], statistics[:, 4], statistics[:, 5], statistics[:, 6] = errors, words, errors, words
    return statistics


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


def test_every_draw_is_scored_as_its_sentences_are(references):
    """With two seeds of training: the sentences of a draw, scored by another library."""
    systems = [spoiled(references, 0.3, seed) for seed in (1, 2)]
    ours = resampled_scores(np.stack([counts(one, references) for one in systems]), ("wer", "cer"), resamples=60)
    generator = np.random.default_rng(SEED)
    expected = {"wer": [], "cer": []}
    rows = generator.choice(len(references), size=(50, len(references)), replace=True)
    for drawn in [*rows, *generator.choice(len(references), size=(10, len(references)), replace=True)]:
        drawn_references = [references[row] for row in drawn]
        for name, score in (("wer", jiwer.wer), ("cer", jiwer.cer)):
            scores = [100 * score(drawn_references, [one[row] for row in drawn]) for one in systems]
            expected[name].append(np.mean(scores))
    np.testing.assert_allclose(ours["wer"], expected["wer"])
    np.testing.assert_allclose(ours["cer"], expected["cer"])
    ordered = sorted(expected["wer"])
    assert interval(ours["wer"]) == pytest.approx((ordered[1], ordered[-2]))  # 1 of 60 on either side


def test_sums_do_not_depend_on_how_many_are_drawn_at_a_time(references):
    statistics = counts(spoiled(references, 0.2, 1), references)
    rows = np.random.default_rng(7).choice(len(references), size=(130, len(references)), replace=True)
    np.testing.assert_allclose(resampled_sums(statistics, 130, seed=7), statistics[rows].sum(axis=1))


def test_the_interval_is_that_of_all_draws():
    """Of five utterances all 3125 draws can be scored: the quantiles agree with those of many random ones."""
    edits = np.array([[1, 5], [3, 4], [0, 2], [2, 7], [4, 4]], dtype=float)
    every = [edits[list(chosen)].sum(0) for chosen in itertools.product(range(5), repeat=5)]
    expected = np.quantile([100 * (theirs - ours) / theirs for ours, theirs in every], [0.025, 0.975])
    draws = [
        resampled_scores(of_words(edits[:, column], [7, 9, 4, 11, 6])[None], ("wer",), resamples=40_000)["wer"]
        for column in (0, 1)
    ]
    assert interval(gain("wer", *draws)) == pytest.approx(expected, abs=1.0)


def test_a_difference_and_its_sign(references):
    a, b = (counts(spoiled(references, share, 3), references) for share in (0.1, 0.5))
    of = [resampled_scores(one[None], ("wer",))["wer"] for one in (a, b)]
    difference = compute_scores(a.sum(0)).wer - compute_scores(b.sum(0)).wer
    result = compare(*of, difference)
    assert result.difference == difference < 0 and result.interval.high < 0
    assert result.p == pytest.approx(2 / 1001)  # no draw says otherwise
    low, high = result.interval
    assert compare(*of[::-1], -difference).interval == pytest.approx((-high, -low))


def test_what_is_hard_for_both_cancels_out(references):
    """Paired: a system beside itself has no difference on any draw."""
    draws = resampled_scores(counts(spoiled(references, 0.3, 1), references)[None], ("wer",), resamples=200)["wer"]
    assert interval(gain("wer", draws, draws)) == (0, 0)
    assert compare(draws, draws, 0.0) == (0.0, (0, 0), 1.0)


def test_p_of_two_systems_that_are_alike():
    """Half a percent of difference of draws that scatter by one: twice the share of a normal distribution beyond it."""
    draws = np.random.default_rng(0).normal(0.5, 1.0, 20000)
    result = compare(draws, np.zeros(20000), 0.5)
    assert result.p == pytest.approx(0.617, abs=0.01) and result.interval.low < 0 < result.interval.high


def test_seeds_do_not_pass_for_more_utterances(references):
    one = counts(spoiled(references, 0.3, 1), references)
    single, triple = (resampled_scores(np.stack([one] * seeds), ("cer",), 300)["cer"] for seeds in (1, 3))
    assert interval(single) == pytest.approx(interval(triple))


def test_how_often_the_interval_holds_the_truth():
    """Of many test sets from one source of known error rate."""
    generator, held = np.random.default_rng(0), 0
    for _ in range(100):
        statistics = of_words(generator.binomial(10, 0.2, 80), np.full(80, 10))
        low, high = interval(resampled_scores(statistics[None], ("wer",), 120)["wer"])
        held += low <= 20 <= high
    assert 88 <= held <= 99


def test_a_better_chrf_is_a_higher_one():
    assert gain("chrf", 30.0, 20.0) == pytest.approx(50) and gain("wer", 30.0, 20.0) == pytest.approx(-50)


def test_draws_without_a_word():
    scores = resampled_scores(counts(["", "a"], ["", "a b"])[None], ("wer",), resamples=400)["wer"]
    assert np.isnan(scores).any() and np.isfinite(interval(scores)).all()
    assert interval(np.array([np.nan, 1.0, 2.0])) == Interval(1.0, 2.0)
    with pytest.raises(ValueError, match="no draw"):
        interval(np.array([np.nan]))
