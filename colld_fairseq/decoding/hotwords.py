"""Hot words: words and phrases that a beam is to prefer, such as names that the training never had.

A prefix tree of their tokens takes part in the search as a language model does. Every token of a hot word is given a
bonus as it is emitted, so that the hypothesis stays in the beam; where another token follows, or the word goes on
beyond the hot word, that is taken back at once. What remains in the end is the bonus of the whole words, of which no
two overlap: the best such choice.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from colld_fairseq.data.text_files import text_lines
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.decoding.prefix_tree import LanguageModel
from colld_fairseq.errors import ConfigError
from colld_fairseq.numbers import POSITIVE


class Phrase(NamedTuple):
    """Token ids of a hot word, and the bonus of each token (natural logarithm)."""

    tokens: Tuple[int, ...]
    bonus: float


@dataclass
class Node:
    """After some tokens of a phrase; bonus: of the last of them; ends: whether the phrase may end here."""

    bonus: float = -math.inf
    children: Dict[int, "Node"] = field(default_factory=dict)
    ends: bool = False


class Match(NamedTuple):
    """A phrase under way, and what it would add to the bonuses that are certain by now if it ended here."""

    node: Node
    gain: float


class State(NamedTuple):
    """lm: of the language model. matches: phrases that may be under way. word_begins: whether the next token is the
    first of a word, whatever it is."""

    lm: Any
    matches: Tuple[Match, ...]
    word_begins: bool

    @property
    def hoped_for(self) -> float:
        """What the best of the matches would add."""
        return max([0.0, *(match.gain for match in self.matches)])

    @property
    def whole(self) -> float:
        """The same of those that are whole, if a word ends here."""
        return max([0.0, *(match.gain for match in self.matches if match.node.ends)])


class HotwordScorer:
    """A :class:`~colld_fairseq.decoding.prefix_tree.LanguageModel` whose log-probabilities are the weighted ones of
    another model (or none) and the bonuses of hot words: its own weight in the search is 1.

    Args:
        phrases: the hot words.
        symbols: token of each id.
        boundary: what separates words: a token of its own (characters), or the beginning of tokens (sentencepiece).
        lm, lm_weight: a language model beside the hot words.
    """

    def __init__(
        self,
        phrases: Iterable[Phrase],
        symbols: Sequence[str],
        boundary: str,
        lm: Optional[LanguageModel] = None,
        lm_weight: float = 0.0,
    ) -> None:
        self.boundary, self.lm, self.lm_weight = boundary, lm, lm_weight
        self.separates = [symbol.startswith(boundary) for symbol in symbols]
        self.is_separator = [symbol == boundary for symbol in symbols]
        self.root = Node()
        for phrase in phrases:
            self._add(phrase)

    def _add(self, phrase: Phrase) -> None:
        node = self.root
        for token in phrase.tokens:
            node = node.children.setdefault(token, Node())
            node.bonus = max(node.bonus, phrase.bonus)
        node.ends = True

    def start(self) -> State:
        return State(None if self.lm is None else self.lm.start(), (), True)

    def prepare(self, states: Sequence[State]) -> None:
        if self.lm is not None:
            self.lm.prepare([state.lm for state in states])

    def score(self, state: State, token: int) -> Tuple[State, float, int]:
        lm, log_prob, units = (None, 0.0, 1) if self.lm is None else self.lm.score(state.lm, token)
        certain = state.whole if self.separates[token] else 0.0
        matches = [
            Match(child, gain - certain + child.bonus)
            for node, gain in state.matches
            if (child := node.children.get(token)) is not None
        ]
        if (state.word_begins or self.separates[token]) and (first := self.root.children.get(token)) is not None:
            matches.append(Match(first, first.bonus))
        after = State(lm, tuple(matches), self.is_separator[token])
        return after, self.lm_weight * log_prob + certain + after.hoped_for - state.hoped_for, units

    def finish(self, state: State) -> Tuple[float, int]:
        log_prob, units = (0.0, 0) if self.lm is None else self.lm.finish(state.lm)
        return self.lm_weight * log_prob + state.whole - state.hoped_for, units


def read_hotwords(path: str, vocabulary: Vocabulary, bonus: float) -> List[Phrase]:
    """Of a file with a word or phrase a line, and perhaps a tab and its own bonus a token.

    Raises ConfigError naming file and line for what the vocabulary cannot write, and for an empty file.
    """
    phrases, unknown = [], vocabulary.dictionary.unk()
    for line_number, line in enumerate(text_lines(path), start=1):
        text, _, own = line.partition("\t")
        if not text.strip():
            continue
        chosen = POSITIVE.read(own, f"{path}:{line_number}") if own.strip() else bonus
        tokens = tuple(vocabulary.encode(text, append_eos=False).tolist())
        if unknown in tokens or not tokens:
            raise ConfigError(
                f"{path}:{line_number}: {text!r} has letters that the vocabulary lacks; write it with others"
            )
        phrases.append(Phrase(tokens, chosen))
    if not phrases:
        raise ConfigError(f"{path}: no hot word in it; write one a line")
    return phrases
