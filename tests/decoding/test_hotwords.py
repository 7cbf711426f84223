"""Hot words: their bonuses against the best choice of whole words by brute force, and what a search makes of them."""

import itertools
import random

import pytest
import torch
from checkpoints import save_ctc, save_transducer
from streams import UTTERANCES, streamed

from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.data.vocabulary_making import make_vocabulary
from colld_fairseq.decoding.ctc import prefix_beam_search
from colld_fairseq.decoding.hotwords import HotwordScorer, Phrase, read_hotwords
from colld_fairseq.errors import ConfigError
from colld_fairseq.recogniser import load_recogniser

SYMBOLS = {"char": ["<s>", "|", "a", "b", "c"], "pieces": ["<s>", "\u2581", "\u2581a", "\u2581b", "a", "b"]}
BOUNDARY = {"char": "|", "pieces": "\u2581"}


def words_in(kind, tokens):
    """(first token, token behind) of each word, as pieces of its letters."""
    symbols = [SYMBOLS[kind][token] for token in tokens]
    starts = [i for i, s in enumerate(symbols) if s.startswith(BOUNDARY[kind])]
    if kind == "char":
        bounds = [-1, *starts, len(tokens)]
        return [(a + 1, b) for a, b in zip(bounds, bounds[1:])]
    bounds = sorted({0, *starts, len(tokens)})
    return list(zip(bounds, bounds[1:]))


def best_choice(kind, tokens, phrases):
    """Largest sum of bonuses of phrases that cover whole words of the tokens, none of which overlap."""
    words = words_in(kind, tokens)
    spans = [(a[0], b[1]) for i, a in enumerate(words) for b in words[i:]]
    matches = [
        (start, end, bonus * (end - start))
        for start, end in spans
        for phrase, bonus in phrases
        if tuple(tokens[start:end]) == phrase
    ]
    best = 0.0
    for size in range(len(matches) + 1):
        for some in itertools.combinations(sorted(matches), size):
            if all(one[1] <= after[0] for one, after in zip(some, some[1:])):
                best = max(best, sum(value for _, _, value in some))
    return best


def any_phrase(kind, draw):
    size = len(SYMBOLS[kind])
    if kind == "char":
        words = [draw.choices(range(2, size), k=draw.randint(1, 2)) for _ in range(draw.randint(1, 2))]
        return tuple(words[0] + [token for word in words[1:] for token in [1, *word]])
    return tuple(
        token for _ in range(draw.randint(1, 2)) for token in [draw.choice((1, 2, 3)), *draw.choices((4, 5), k=1)]
    )


@pytest.mark.parametrize("kind", SYMBOLS)
def test_bonuses_are_those_of_the_best_whole_words(kind):
    draw, matched = random.Random(4), 0
    for _ in range(400):
        # equal bonuses: prefixes that phrases share have the largest one
        phrases = {any_phrase(kind, draw) for _ in range(draw.randint(1, 4))}
        scorer = HotwordScorer([Phrase(phrase, 1.0) for phrase in phrases], SYMBOLS[kind], BOUNDARY[kind])
        tokens = draw.choices(range(1, len(SYMBOLS[kind])), k=draw.randint(0, 9))
        state, total = scorer.start(), 0.0
        for token in tokens:
            state, gain, units = scorer.score(state, token)
            total, _ = total + gain, units
            assert total >= -1e-9 and units == 1
        total += scorer.finish(state)[0]
        expected = best_choice(kind, tokens, [(phrase, 1.0) for phrase in phrases])
        assert total == pytest.approx(expected), (phrases, tokens)
        matched += expected > 0
    assert matched > 20


@pytest.fixture
def vocabulary(corpus, tmp_path):
    make_vocabulary([str(corpus / "train.tsv")], tmp_path / "vocab", "char")
    return Vocabulary(str(tmp_path / "vocab"))


def said(vocabulary, text, doubted, instead, certainty=0.3):
    """Log-probabilities of a text, a blank after each token, in which a letter sounds rather like another one."""
    ids = [vocabulary.dictionary.index("|" if letter == " " else letter) for letter in text]
    probability = torch.full((2 * len(ids), len(vocabulary.dictionary)), 1e-4)
    probability[1::2, 0] = 1
    for frame, (letter, token) in enumerate(zip(text, ids)):
        probability[2 * frame, token] = 1
        if letter == doubted:
            probability[2 * frame, token] = certainty
            probability[2 * frame, vocabulary.dictionary.index(instead)] = 1 - certainty
    return (probability / probability.sum(-1, keepdim=True)).log()[None]


def recognized(vocabulary, log_probs, *phrases, bonus=1.0):
    tokens = [Phrase(tuple(vocabulary.encode(phrase, append_eos=False).tolist()), bonus) for phrase in phrases]
    scorer = HotwordScorer(tokens, vocabulary.dictionary.symbols, "|") if tokens else None
    lengths = torch.tensor([log_probs.size(1)])
    ((best,),) = prefix_beam_search(log_probs, lengths, beam=8, lm=scorer, lm_weight=1.0)
    return vocabulary.detokenize(best.tokens)


def test_a_name_is_recognized_only_with_its_hot_word(vocabulary):
    log_probs = said(vocabulary, "ab cde ba", doubted="d", instead="a")
    assert recognized(vocabulary, log_probs) == "ab cae ba"
    assert recognized(vocabulary, log_probs, "cde") == "ab cde ba"
    assert recognized(vocabulary, log_probs, "cde ba") == "ab cde ba"
    # a part of the word, another word: nothing changes
    assert recognized(vocabulary, log_probs, "cd", "de", "cdeb", "abc") == "ab cae ba"


def test_false_alarms_come_with_large_bonuses(vocabulary):
    """Words that sound a little like the hot word: none becomes it by a small bonus, all by a large one."""
    log_probs = [said(vocabulary, "ab cae ba", doubted="a", instead="d", certainty=1 - 10**-n) for n in range(1, 5)]
    alarms = [
        sum("cde" in recognized(vocabulary, one, "cde", bonus=bonus) for one in log_probs) for bonus in (0.3, 1, 9)
    ]
    assert alarms == sorted(alarms) and alarms[0] == 0 and alarms[-1] == len(log_probs)


def test_of_a_file(vocabulary, tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("ab cd\n\ncde\t2.5\n", encoding="utf-8")
    first, second = read_hotwords(str(path), vocabulary, 1.5)
    assert (first.bonus, second.bonus) == (1.5, 2.5) and len(first.tokens) == 5
    for content, message in (("ab\n\u2603\n", ":2: '\u2603' has letters"), ("a\tx\n", ":1"), ("\n", "no hot word")):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            read_hotwords(str(path), vocabulary, 1.5)


@pytest.mark.parametrize("save", [save_ctc, save_transducer])
def test_utterances_and_streams_are_searched_alike(save, corpus, vocab, statistics, tmp_path):
    path = save(tmp_path / "model.pt", corpus, "chunk", "--vocab", vocab, "--cmvn", statistics["kaldi"])
    (tmp_path / "names.txt").write_text("ab\nba ab\ncd\n", encoding="utf-8")
    options = dict(hotwords=str(tmp_path / "names.txt"), hotword_bonus=4.0)
    plain, hot = load_recogniser(path, beam=4), load_recogniser(path, beam=4, **options)
    for one in (plain, hot):
        one.limit_context(320)
    expected = [n_best[0].text for n_best in hot.transcribe(UTTERANCES)]
    assert expected != [n_best[0].text for n_best in plain.transcribe(UTTERANCES)]
    streaming = hot.streaming(320, endpoint=None)
    for utterance, text in zip(UTTERANCES, expected):
        results = streamed(streaming, utterance)
        assert (results[-1].text if results else "") == text
