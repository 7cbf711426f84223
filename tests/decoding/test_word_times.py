"""Words with their times: they make up the text, and lie where their tokens were emitted."""

import random

import numpy as np
import pytest
import torch

from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.data.vocabulary_making import make_vocabulary
from colld_fairseq.decoding.ctc import greedy_ctc
from colld_fairseq.decoding.hypothesis import Hypothesis
from colld_fairseq.decoding.words import LONGEST_END, WordTimer

FRAME = 0.04


@pytest.fixture(scope="module", params=["char", "sentencepiece"])
def vocabulary(request, corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    size = None if request.param == "char" else 40
    make_vocabulary([str(corpus / "train.tsv")], folder, request.param, size, lang_tags=True)
    return Vocabulary(str(folder))


def test_words_make_up_the_text(vocabulary):
    draw, timer = random.Random(1), WordTimer(vocabulary, FRAME)
    for _ in range(300):
        tokens = draw.choices(range(len(vocabulary.dictionary)), k=draw.randint(0, 30))
        frames = sorted(draw.choices(range(60), k=len(tokens)))
        scores = [-draw.random() for _ in tokens]
        hypothesis = Hypothesis(tokens, 0.0, 0.0, 0.0, frames, scores)
        words = timer(hypothesis, 1.5, 1.5 + 60 * FRAME)
        assert " ".join(word.text for word in words) == " ".join(vocabulary.detokenize(tokens).split())
        for word, follows in zip(words, [*words[1:], None]):
            assert 1.5 <= word.start <= word.end <= 1.5 + 60 * FRAME + 1e-6 and 0 <= word.confidence <= 1
            assert follows is None or word.end <= follows.start + 1e-6


def test_times_of_a_ctc_path(corpus, tmp_path):
    """Frames: blank, a a, b, blank, boundary, blank x 2, c, blanks to the end."""
    make_vocabulary([str(corpus / "train.tsv")], tmp_path, "char")
    vocabulary = Vocabulary(str(tmp_path))
    a, b, c, boundary = (vocabulary.dictionary.index(symbol) for symbol in "abc|")
    path = [0, a, a, b, 0, boundary, 0, 0, c, *[0] * 11]
    probability = torch.full((len(path), len(vocabulary.dictionary)), 0.1 / (len(vocabulary.dictionary) - 1))
    probability[range(len(path)), path] = 0.9
    (hypothesis,) = greedy_ctc(probability.log()[None], torch.tensor([len(path)]))
    first, second = WordTimer(vocabulary, FRAME)(hypothesis, 10.0, 10.0 + FRAME * len(path))
    assert (first.text, second.text) == ("ab", "c")
    assert (first.start, first.end) == pytest.approx((10 + FRAME, 10 + 5 * FRAME))
    assert (second.start, second.end) == pytest.approx((10 + 8 * FRAME, 10 + 8 * FRAME + LONGEST_END))
    # blank and a a; b and the blank behind it: the tokens' parts of the path
    assert first.confidence == pytest.approx(np.sqrt(0.9**3 * 0.9**2), abs=1e-4)


def test_without_frames_there_are_no_times(vocabulary):
    assert WordTimer(vocabulary, FRAME)(Hypothesis([5, 6], 0.0, 0.0), 0.0, 1.0) == []
