"""Words of a hypothesis: when each was said, and how sure the model is of it."""

import math
from dataclasses import dataclass
from typing import List, Sequence, Tuple

from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.decoding.hypothesis import Hypothesis, Word

# CTC and transducers say when a token begins, not when it ends: a word lasts until the next token, a word boundary or
# the next word's first one, but no longer than this after its last token began. Our choice.
LONGEST_END = 0.24


@dataclass(frozen=True)
class WordTimer:
    """Finds the words of hypotheses that know the frames of their tokens.

    Args:
        vocabulary: of the tokens.
        frame_seconds: from one encoder frame to the next.
    """

    vocabulary: Vocabulary
    frame_seconds: float

    def __call__(self, hypothesis: Hypothesis, start: float, end: float) -> List[Word]:
        """Words in order, none for hypotheses without frames (attention decoders). start, end: of the audio that was
        decoded, in seconds; frames count from the start."""
        if len(hypothesis.frames) != len(hypothesis.tokens):
            return []
        times = [start + frame * self.frame_seconds for frame in hypothesis.frames] + [end]
        return [self.word(hypothesis, times, *group) for group in self.groups(hypothesis.tokens)]

    def word(self, hypothesis: Hypothesis, times: Sequence[float], text: str, members: Tuple[int, ...]) -> Word:
        first, last = members[0], members[-1]
        lasts_until = min(times[last + 1], times[last] + LONGEST_END, times[-1])
        scores = [hypothesis.token_scores[index] for index in members]
        confidence = math.exp(min(0.0, sum(scores) / len(scores)))
        return Word(text, round(times[first], 3), round(max(lasts_until, times[first]), 3), round(confidence, 4))

    def groups(self, tokens: Sequence[int]) -> List[Tuple[str, Tuple[int, ...]]]:
        """(text, indices of its tokens) of every word."""
        codec, symbols = self.vocabulary.codec, self.vocabulary.symbols_of(tokens)
        members: List[List[int]] = [[]]
        before = ""
        for index, symbol in enumerate(symbols):
            if not symbol:
                continue
            if codec.begins_word(symbol, before):
                members.append([])
            if symbol != codec.boundary:
                members[-1].append(index)
            before = symbol
        groups = [(codec.decode([symbols[index] for index in one]), tuple(one)) for one in members if one]
        return [(text, one) for text, one in groups if text]
