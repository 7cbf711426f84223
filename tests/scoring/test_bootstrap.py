"""The paired bootstrap against jiwer and sacrebleu on drawn corpora, and against every draw of a small one."""

import itertools
import random

import jiwer
import numpy as np
import pytest
from sacrebleu.metrics import CHRF

from colld_fairseq.errors import ConfigError
from colld_fairseq.scoring.bootstrap import Resampled, draw, gain, interval, resampled_scores
from colld_fairseq.scoring.metrics import compute_scores, sentence_statistics

WORDS = "the a cat dog runs away où est l'été на улице ωndω".split()


def corpus(seed, size, errors):
    """References, and hypotheses with about so many errors in a hundred words."""
    rng = random.Random(seed)
    references = [" ".join(rng.choices(WORDS, k=rng.randint(2, 9))) for _ in range(size)]
    damage = lambda word: rng.choice(WORDS) if rng.random() < errors / 100 else word  # noqa: E731
    return references, [" ".join(map(damage, text.split())) for text in references]


def statistics(hypotheses, references):
    return np.stack([sentence_statistics(hyp, ref, "en") for hyp, ref in zip(hypotheses, references, strict=True)])


@pytest.fixture(scope="module")
def systems():
    """References, and the hypotheses of a better and of a worse system."""
    references, better = corpus(1, 40, 20)
    rng = random.Random(2)
    worse = [" ".join(w for w in text.split() if rng.random() > 0.15) for text in better]
    return references, better, worse


@pytest.mark.parametrize("measure", ["wer", "cer", "chrf"])
def test_every_draw_is_scored_as_its_sentences_are(measure, systems):
    """The sentences of a draw, each as often as it was drawn, scored by another library."""
    references, *hypotheses = systems
    given = {name: statistics(one, references) for name, one in zip(("better", "worse"), hypotheses)}
    scores = resampled_scores(given, measure, resamples=30, seed=5)
    times = draw(np.random.default_rng(5), len(references), 30).astype(int)
    for name, own in zip(("better", "worse"), hypotheses):
        for row, drawn in enumerate(times):
            repeat = lambda lines: [line for line, n in zip(lines, drawn) for _ in range(n)]  # noqa: E731
            refs, hyps = repeat(references), repeat(own)
            expected = {
                "wer": lambda: 100 * jiwer.wer(refs, hyps),
                "cer": lambda: 100 * jiwer.cer(refs, hyps),
                "chrf": lambda: CHRF().corpus_score(hyps, [refs]).score,
            }[measure]()
            assert scores[name].draws[row] == pytest.approx(expected, abs=1e-9)
        overall = compute_scores(given[name].sum(0))
        assert float(scores[name].value) == pytest.approx(getattr(overall, measure))


def test_the_interval_is_that_of_all_draws():
    """Of five utterances all 3125 draws can be scored: the quantiles agree with those of many random ones."""
    edits = np.array([[1, 5], [3, 4], [0, 2], [2, 7], [4, 4]], dtype=float)
    words = np.array([7, 9, 4, 11, 6], dtype=float)
    given = {}
    for name, column in (("ours", 0), ("theirs", 1)):
        rows = np.zeros((5, len(sentence_statistics("a", "a"))))
        rows[:, 3], rows[:, 4], rows[:, 5], rows[:, 6] = edits[:, column], words, edits[:, column], words
        given[name] = rows
    every = []
    for chosen in itertools.product(range(5), repeat=5):
        ours, theirs = edits[list(chosen)].sum(0)
        every.append(100 * (theirs - ours) / theirs)
    scores = resampled_scores(given, "wer", resamples=40_000)
    result = interval(gain("wer", scores["ours"], scores["theirs"]))
    assert result.value == pytest.approx(100 * (22 - 10) / 22)
    assert result.low == pytest.approx(np.quantile(every, 0.025), abs=1.0)
    assert result.high == pytest.approx(np.quantile(every, 0.975), abs=1.0)


def test_what_is_hard_for_both_cancels_out(systems):
    """Paired: a system beside itself has no difference on any draw."""
    references, better, worse = systems
    given = {"a": statistics(better, references), "b": statistics(better, references)}
    scores = resampled_scores(given, "wer", resamples=200)
    assert interval(gain("wer", scores["a"], scores["b"])) == (0, 0, 0)


def test_seeds_that_are_added_up_do_not_pass_for_more_utterances(systems):
    references, better, worse = systems
    one = {"a": statistics(better, references), "b": statistics(worse, references)}
    three = {name: 3 * rows for name, rows in one.items()}
    spread = []
    for given in (one, three):
        scores = resampled_scores(given, "cer", resamples=500)
        spread.append(interval(gain("cer", scores["a"], scores["b"])))
    assert spread[0] == pytest.approx(spread[1])


def test_a_better_chrf_is_a_higher_one():
    scores = Resampled(np.array(30.0), np.array([30.0])), Resampled(np.array(20.0), np.array([20.0]))
    assert gain("chrf", *scores).value == pytest.approx(50) and gain("wer", *scores).value == pytest.approx(-50)


def test_draws_without_words_are_left_out():
    references, hypotheses = ["", "a b"], ["", "a"]
    scores = resampled_scores({"x": statistics(hypotheses, references)}, "wer", resamples=400)
    assert np.isnan(scores["x"].draws).any() and np.isfinite(interval(scores["x"]).high)
    nothing = resampled_scores({"x": statistics([""], [""])}, "wer", resamples=10)
    assert np.isnan(interval(nothing["x"]).low)


def test_other_utterances_and_measures_are_refused(systems):
    references, better, worse = systems
    rows = statistics(better, references)
    with pytest.raises(ConfigError, match="same utterances"):
        resampled_scores({"a": rows, "b": rows[:-1]}, "wer")
    with pytest.raises(ConfigError, match="wer, cer, chrf"):
        resampled_scores({"a": rows}, "ter")
