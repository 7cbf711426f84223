"""KenLM scorers against kenlm's own sentence scores, and in the search."""

import math
import sys

import pytest
import torch

from colld_fairseq.decoding.ctc import prefix_beam_search
from colld_fairseq.decoding.kenlm_scorer import LN_10, TokenKenlm, WordKenlm
from colld_fairseq.errors import ConfigError

kenlm = pytest.importorskip("kenlm")


def write_arpa(path, units, bigrams):
    """A bigram model: log10 p of every unit, and of some pairs."""
    unigrams = {"<unk>": -2.5, "<s>": -99, "</s>": -1.0, **units}
    lines = ["\\data\\", f"ngram 1={len(unigrams)}", f"ngram 2={len(bigrams)}", "", "\\1-grams:"]
    lines += [f"{p}\t{unit}\t-0.4" for unit, p in unigrams.items()]
    lines += ["", "\\2-grams:"] + [f"{p}\t{pair}" for pair, p in bigrams.items()] + ["", "\\end\\", ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def words(tmp_path):
    return write_arpa(
        tmp_path / "words.arpa",
        {"la": -0.8, "été": -1.2, "al": -1.5},
        {"<s> la": -0.2, "la été": -0.3, "été </s>": -0.1},
    )


def total(lm, tokens):
    state, log_prob, units = lm.start(), 0.0, 0
    for token in tokens:
        state, step, n = lm.score(state, token)
        log_prob, units = log_prob + step, units + n
    step, n = lm.finish(state)
    return log_prob + step, units + n


@pytest.mark.parametrize("sentence", ["la été", "la la été al", "al", "", "xyz la", "la  été"])
def test_words_of_a_character_vocabulary(words, sentence):
    symbols = ["<s>", "|", *"abcdefghijklmnopqrstuvwxyzé"]
    lm = WordKenlm(words, symbols)
    tokens = [symbols.index("|" if character == " " else character) for character in sentence]
    log_prob, units = total(lm, tokens)
    assert log_prob == pytest.approx(LN_10 * kenlm.Model(str(words)).score(" ".join(sentence.split())))
    assert units == len(sentence.split())


@pytest.mark.parametrize(
    "pieces", [["▁la", "▁ét", "é"], ["▁", "l", "a", "▁été"], ["▁la", "▁", "été"], ["la", "▁a", "l"]]
)
def test_words_of_a_sentencepiece_vocabulary(words, pieces):
    sentence = "".join(pieces).replace("▁", " ").split()
    log_prob, units = total(WordKenlm(words, pieces), range(len(pieces)))
    assert log_prob == pytest.approx(LN_10 * kenlm.Model(str(words)).score(" ".join(sentence)))
    assert units == len(sentence)


def test_ignored_tokens_are_part_of_no_word(words):
    lm = WordKenlm(words, ["<lang:fr>", "l", "a"], ignored=[0])
    assert total(lm, [0, 1, 2]) == total(lm, [1, 2]) == total(lm, [1, 0, 2])


def test_tokens(tmp_path):
    path = write_arpa(tmp_path / "tokens.arpa", {"▁l": -0.5, "a": -0.7}, {"▁l a": -0.1, "<s> ▁l": -0.2})
    log_prob, units = total(TokenKenlm(path, ["<s>", "▁l", "a", "z"]), [1, 2, 3])
    assert log_prob == pytest.approx(LN_10 * kenlm.Model(str(path)).score("▁l a z"))
    assert units == 3


def test_a_language_model_changes_the_result_of_the_search(words):
    symbols = ["<s>", "|", "a", "l"]
    # The acoustic model prefers "al" to "la" by a little.
    probabilities = torch.tensor([[0.1, 0.05, 0.45, 0.4], [0.9, 0.04, 0.03, 0.03], [0.1, 0.05, 0.4, 0.45]])
    log_probs, lengths = probabilities.double().log()[None], torch.tensor([3])
    without = prefix_beam_search(log_probs, lengths, beam=20)[0][0]
    fused = prefix_beam_search(log_probs, lengths, beam=20, lm=WordKenlm(words, symbols), lm_weight=1.0)[0][0]
    assert ["".join(symbols[i] for i in h.tokens) for h in (without, fused)] == ["al", "la"]
    assert fused.lm_score == pytest.approx(LN_10 * kenlm.Model(str(words)).score("la"))
    exact = {tuple(h.tokens): h.score for h in prefix_beam_search(log_probs, lengths, beam=200, nbest=200)[0]}
    assert fused.score == pytest.approx(exact[tuple(fused.tokens)] + fused.lm_score)


def test_length_bonus_counts_words(words):
    symbols = ["<s>", "|", "a", "l"]
    log_probs = torch.full((1, 5, 4), math.log(0.25), dtype=torch.float64)
    arguments = dict(beam=2000, nbest=2000, lm=WordKenlm(words, symbols), lm_weight=0.5)
    plain = {tuple(h.tokens): h.score for h in prefix_beam_search(log_probs, torch.tensor([5]), **arguments)[0]}
    scored = prefix_beam_search(log_probs, torch.tensor([5]), length_bonus=1.5, **arguments)[0]
    for hypothesis in scored:
        index = len("".join(symbols[i] for i in hypothesis.tokens).replace("|", " ").split())
        assert hypothesis.score == pytest.approx(plain[tuple(hypothesis.tokens)] + 1.5 * index)


def test_errors_name_the_remedy(tmp_path, words, monkeypatch):
    with pytest.raises(ConfigError, match="not found.*ARPA"):
        TokenKenlm(tmp_path / "missing.arpa", [])
    (tmp_path / "bad.arpa").write_text("no model")
    with pytest.raises(ConfigError, match="bad.arpa: not a language model"):
        TokenKenlm(tmp_path / "bad.arpa", [])
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(ConfigError, match="pip install kenlm"):
        WordKenlm(words, [])
