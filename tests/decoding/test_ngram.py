"""n-gram models against the formula of their paper by brute force, and against what KenLM reads in their files."""

import io
import itertools
import random

import pytest

from colld_fairseq.cli import main as colld
from colld_fairseq.data.vocabulary_making import make_vocabulary
from colld_fairseq.decoding.ngram import FALLBACK, Ngrams, adjusted_counts, count, discounts, estimate, write_arpa
from colld_fairseq.errors import ConfigError

kenlm = pytest.importorskip("kenlm")


@pytest.fixture(scope="module")
def sentences():
    """Of a Markov chain over eight words, so that there is something to learn, and enough for every discount."""
    draw, words = random.Random(3), "la le li lo da de di do".split()
    chain = {word: draw.choices(words, k=3) for word in words}
    result = []
    for _ in range(60):
        sentence = [draw.choice(words)]
        while len(sentence) < draw.randint(1, 9):
            sentence.append(draw.choice(chain[sentence[-1]] if draw.random() < 0.8 else words))
        result.append(sentence)
    return result


def arpa(model: Ngrams) -> str:
    out = io.StringIO()
    write_arpa(model, out)
    return out.getvalue()


def by_definition(sentences, order, context, word):
    """p(word | context) straight from the paper: sets and lists of the text, nothing kept between calls."""
    vocabulary = {symbol for sentence in sentences for symbol in sentence} | {"</s>", "<unk>"}
    text = [["<s>", *sentence, "</s>"] for sentence in sentences]

    def windows(n):
        return [tuple(s[i : i + n]) for s in text for i in range(len(s) - n + 1)]

    def c(ngram):
        if len(ngram) == order or (ngram[0] == "<s>" and len(ngram) > 1):
            return windows(len(ngram)).count(ngram)
        return len({w[0] for w in windows(len(ngram) + 1) if w[1:] == ngram})

    if context is None:
        return 1 / len(vocabulary)
    n = len(context) + 1
    values = {ngram: c(ngram) for ngram in set(windows(n)) if ngram != ("<s>",)}
    having = {k: sum(value == k for value in values.values()) for k in range(1, 5)}
    amounts = FALLBACK
    if all(having.values()):
        share = having[1] / (having[1] + 2 * having[2])
        exact = [k - (k + 1) * share * having[k + 1] / having[k] for k in (1, 2, 3)]
        amounts = exact if all(0 < d < k for k, d in zip((1, 2, 3), exact)) else FALLBACK
    after = {ngram[-1]: value for ngram, value in values.items() if ngram[:-1] == context}
    shorter = by_definition(sentences, order, context[1:] if context else None, word)
    if not after:
        return shorter
    total = sum(after.values())
    kept_back = sum(min(value, amounts[min(value, 3) - 1]) for value in after.values())
    own = max(after[word] - amounts[min(after[word], 3) - 1], 0) if word in after else 0
    return own / total + kept_back / total * shorter


@pytest.mark.parametrize("order", [2, 3, 4])
def test_what_kenlm_reads_is_the_papers_formula(order, sentences, tmp_path):
    (tmp_path / "lm.arpa").write_text(arpa(estimate(sentences, order)), encoding="utf-8")
    model = kenlm.Model(str(tmp_path / "lm.arpa"))
    assert model.order == order
    for sentence in [*sentences[:6], ["do", "xyz", "la"], []]:
        symbols = ["<s>", *sentence, "</s>"]
        for i, (log10, *_) in enumerate(model.full_scores(" ".join(sentence)), start=1):
            context = tuple(s if s != "xyz" else "<unk>" for s in symbols[max(0, i - order + 1) : i])
            word = "<unk>" if symbols[i] == "xyz" else symbols[i]
            assert 10**log10 == pytest.approx(by_definition(sentences, order, context, word), rel=1e-4)


def test_estimated_discounts_are_in_use(sentences):
    of_each_order = [discounts(of_order) for of_order in adjusted_counts(count(sentences, 3))]
    assert of_each_order[-1] != FALLBACK, "the text of these tests is too small"
    assert discounts(adjusted_counts(count([["a", "b"]], 2))[0]) == FALLBACK


def test_probabilities_after_any_context_sum_to_one(sentences, tmp_path):
    (tmp_path / "lm.arpa").write_text(arpa(estimate(sentences, 3)), encoding="utf-8")
    model = kenlm.Model(str(tmp_path / "lm.arpa"))
    words = sorted({word for sentence in sentences for word in sentence})
    for context in itertools.product([*words, "never"], repeat=2):
        state, after = kenlm.State(), kenlm.State()
        model.BeginSentenceWrite(state)
        for word in context:
            model.BaseScore(state, word, after)
            state, after = after, kenlm.State()
        total = sum(10 ** model.BaseScore(state, word, after) for word in [*words, "</s>", "never seen"])
        assert total == pytest.approx(1, abs=1e-4), context


def test_unseen_sentences_are_likelier_than_their_words_in_another_order(sentences, tmp_path):
    (tmp_path / "lm.arpa").write_text(arpa(estimate(sentences[:45], 3)), encoding="utf-8")
    model, draw = kenlm.Model(str(tmp_path / "lm.arpa")), random.Random(1)
    shuffled = [draw.sample(sentence, len(sentence)) for sentence in sentences[45:]]
    as_said, mixed = (sum(model.score(" ".join(s)) for s in some) for some in (sentences[45:], shuffled))
    assert as_said > mixed + 5


def test_text_that_cannot_be_modelled():
    with pytest.raises(ConfigError, match="no text"):
        estimate([], 2)
    with pytest.raises(ConfigError, match="contains <s>"):
        estimate([["la", "<s>"]], 2)


@pytest.mark.parametrize("unit, line", [("word", "L'ÉTÉ la"), ("token", "L'ÉTÉ la")])
def test_command(unit, line, corpus, tmp_path, capsys):
    vocabulary, text, out = tmp_path / "vocab", tmp_path / "text", tmp_path / "lm.arpa"
    make_vocabulary([str(corpus / "train.tsv")], vocabulary, "char")
    text.write_text(f"{line}\n\n", encoding="utf-8")
    command = ["ngram", "--vocab", str(vocabulary), str(text), "--order", "2", "--unit", unit, "--out", str(out)]
    assert colld(command) == 0
    expected = line.split() if unit == "word" else ["|" if character == " " else character for character in line]
    model = kenlm.Model(str(out))
    assert all(symbol in model for symbol in expected) and "zzz" not in model
    assert f"of {unit}s" in capsys.readouterr().out
    assert colld(command[:3] + command[4:]) == 2
    assert "no text: give" in capsys.readouterr().err
