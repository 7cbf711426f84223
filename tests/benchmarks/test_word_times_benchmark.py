from types import SimpleNamespace

import numpy as np
import pytest
import word_times
from checkpoints import save_ctc

from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifests
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.decoding.hypothesis import Word
from colld_fairseq.decoding.words import WordTimer
from colld_fairseq.recogniser import load_recogniser

FRAME = 0.02


def posteriors(path, size, share=0.9):
    """ln p [T, V] of a path that is nearly certain."""
    probability = np.full((len(path), size), (1 - share) / (size - 1))
    probability[range(len(path)), path] = share
    return np.log(probability)


def test_words_are_where_the_posteriors_say(vocab):
    """Frames: 3 blanks, a a, b, b, blank x 2, boundary, c c c, 4 blanks; the hypothesis ends words by its own rule."""
    vocabulary = Vocabulary(str(vocab))
    a, b, c, boundary = (vocabulary.dictionary.index(symbol) for symbol in "abc|")
    path = [0, 0, 0, a, a, b, b, 0, 0, boundary, c, c, c, 0, 0, 0, 0]
    timer = SimpleNamespace(words_of=WordTimer(vocabulary, FRAME))
    words = word_times.words_of(timer, posteriors(path, len(vocabulary.dictionary)), [a, b, boundary, c])
    assert [(w.text, round(w.start / FRAME, 6), round(w.end / FRAME, 6)) for w in words] == [
        ("ab", 3, 7),
        ("c", 10, 13),
    ]


def test_only_words_that_are_right_count():
    reference = [Word(text, start, start + 0.2, 1.0) for text, start in (("a", 0.1), ("b", 0.4), ("c", 1.0))]
    hypothesis = [
        Word(text, start, end, 1.0) for text, start, end in (("a", 0.1, 0.35), ("x", 0.4, 0.5), ("c", 0.9, 1.1))
    ]
    errors = word_times.compare(hypothesis, reference)
    assert errors.starts == pytest.approx([0.0, -0.1]) and errors.ends == pytest.approx([0.05, -0.1])
    result = word_times.summary(errors.ends)
    assert result == {
        **{"words": 2, "mean_ms": -25.0, "mean_absolute_ms": 75.0, "median_absolute_ms": 75.0},
        **{"within_50_ms": 50.0, "within_100_ms": 100.0, "within_200_ms": 100.0},
    }
    assert word_times.summary([]) == {"words": 0}


def test_a_model_against_itself(corpus, vocab, tmp_path):
    """Its own hypotheses as transcripts: every word is right, and begins where the alignment has it."""
    checkpoint = save_ctc(tmp_path / "model.pt", corpus, "full", "--vocab", vocab, "--cmvn", "none")
    recogniser, manifest = load_recogniser(checkpoint), read_manifests(str(corpus / "test.tsv"))
    paths = [manifest.audio_path(index) for index in range(4)]
    said = [recogniser.transcribe([read_audio(path)])[0][0].text for path in paths]
    rows = [manifest.row(index)._replace(tgt_text=text) for index, text in enumerate(said)]
    result = word_times.measure(recogniser, recogniser, rows, paths)
    words = sum(len(text.split()) for text in said)
    assert result["transcript_words"] == result["ends"]["words"] == words > 3 and result["left_out"] == 0
    assert result["starts"]["mean_absolute_ms"] < 40
