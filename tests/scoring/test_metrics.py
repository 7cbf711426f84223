"""Scores against jiwer and sacrebleu on whole corpora."""

import random

import jiwer
import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from colld_fairseq.scoring import metrics
from colld_fairseq.scoring.metrics import (
    CorpusScores,
    base_language,
    bleu_tokenizer,
    compute_scores,
    sentence_statistics,
)

WORDS = "the a cat dog runs, runs away. où est l'été на улице дом ωndω 你好 12.5 %".split()


def random_corpus(seed, size=60):
    rng = random.Random(seed)
    references = [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(size)]
    hypotheses = []
    for reference in references:
        words = [word for word in reference.split() if rng.random() > 0.2]
        words = [rng.choice(WORDS) if rng.random() < 0.2 else word for word in words]
        hypotheses.append(" ".join(words))
    return hypotheses, references


def score(hypotheses, references, tgt_lang="en"):
    scores = CorpusScores()
    for hypothesis, reference in zip(hypotheses, references):
        scores.add(hypothesis, reference, "de", tgt_lang)
    return scores


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_corpus_scores_equal_jiwer_and_sacrebleu(seed):
    hypotheses, references = random_corpus(seed)
    result = score(hypotheses, references).overall()
    assert result.wer == pytest.approx(100 * jiwer.wer(references, hypotheses))
    assert result.cer == pytest.approx(100 * jiwer.cer(references, hypotheses))
    assert result.bleu == pytest.approx(BLEU().corpus_score(hypotheses, [references]).score)
    assert result.chrf == pytest.approx(CHRF().corpus_score(hypotheses, [references]).score)
    assert (result.sentences, result.empty_references) == (60, 0)


@pytest.mark.parametrize("language,tokenizer", [("zh-CN", "zh"), ("th", "char"), ("fr", "13a")])
def test_bleu_uses_the_tokenizer_of_the_target_language(language, tokenizer):
    hypotheses = ["你好世界。", "我 是 谁?", "ab cd"]
    references = ["你好,世界。", "我是谁?", "ab cd e"]
    expected = BLEU(tokenize=tokenizer).corpus_score(hypotheses, [references]).score
    assert score(hypotheses, references, language).overall().bleu == pytest.approx(expected)


def test_tokenizers_and_codes():
    assert [base_language(code) for code in ("zh_TW", "cmn-Hans", "pt-BR", "mdw")] == [
        "zh",
        "zh",
        "pt",
        "mdw",
    ]
    assert bleu_tokenizer("ja") in ("ja-mecab", "char") and bleu_tokenizer("ko") in ("ko-mecab", "char")


def test_tokenizer_of_japanese_follows_what_is_installed(monkeypatch):
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: object())
    assert bleu_tokenizer("jpn") == "ja-mecab"
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None)
    assert bleu_tokenizer("jpn") == "char"


def test_wer_and_cer_are_totals_not_means_of_sentences():
    result = score(["a b c d e f g h i j", "x"], ["a b c d e f g h i j", "y"]).overall()
    assert result.wer == pytest.approx(100 / 11)
    assert result.cer == pytest.approx(100 / 20)  # spaces count: 19 characters and 1


def test_scores_do_not_depend_on_order_or_on_how_counts_are_added_up():
    hypotheses, references = random_corpus(3)
    whole = score(hypotheses, references).overall()
    assert score(hypotheses[::-1], references[::-1]).overall() == whole
    rows = [sentence_statistics(h, r, "en") for h, r in zip(hypotheses, references)]
    parts = [np.sum(rows[i::7], axis=0) for i in range(7)]
    assert compute_scores(np.sum(parts, axis=0)) == whole


def test_pairs_are_scored_separately_and_together():
    scores = CorpusScores()
    scores.add("guten tag", "guten tag", "en", "de")
    scores.add("wrong", "bonjour", "en", "fr")
    scores.add("guten abend", "guten morgen", "fr", "de")
    per_pair = scores.per_pair()
    assert list(per_pair) == [("en", "de"), ("en", "fr"), ("fr", "de")]
    assert [s.wer for s in per_pair.values()] == [0, 100, 50]
    assert scores.overall().wer == pytest.approx(100 * 2 / 5)


def test_overlong_hypotheses_are_counted():
    """More than 1.5 times the words of the reference and two more."""
    scores = CorpusScores()
    for words, reference in ((8, "a b c d"), (9, "a b c d"), (3, ""), (2, ""), (5, "a b"), (6, "a b")):
        scores.add(" ".join("x" * words), reference, "de", "de")
    scores.add("x x x", "", "de", "en")
    assert scores.overall().overlong == 4 and scores.overall().sentences == 7
    assert {pair: one.overlong for pair, one in scores.per_pair().items()} == {("de", "de"): 3, ("de", "en"): 1}


def test_empty_references_and_hypotheses():
    only_empty = score(["", "two words"], ["", ""]).overall()
    assert (only_empty.wer, only_empty.cer, only_empty.bleu, only_empty.chrf) == (None, None, 0, 0)
    assert only_empty.empty_references == 2
    # Words said where nothing was are insertions: they count as edits of the corpus.
    assert score(["two words", "a b"], ["", "a b"]).overall().wer == 100
    assert score([""], ["a b"]).overall().wer == 100
    hypotheses, references = ["", "the cat", "ab"], ["the dog runs", "", "ab cd"]
    result = score(hypotheses, references).overall()
    assert result.bleu == pytest.approx(BLEU().corpus_score(hypotheses, [references]).score)
    assert result.chrf == pytest.approx(CHRF().corpus_score(hypotheses, [references]).score)
    assert CorpusScores().overall().sentences == 0


def test_signatures_say_what_was_computed():
    scores = CorpusScores()
    for language in ("en", "fr", "zh"):
        scores.add("a", "a", "de", language)
    signatures = scores.signatures()
    assert "tok:13a" in signatures["BLEU (en, fr)"] and "tok:zh" in signatures["BLEU (zh)"]
    assert signatures["chrF"].startswith("chrF2|nrefs:1") and "nc:6|nw:0" in signatures["chrF"]
