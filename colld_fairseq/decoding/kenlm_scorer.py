"""n-gram language models (KenLM: ARPA or binary) for prefix beam search.

Two levels, with the interface of :class:`colld_fairseq.decoding.ctc.LanguageModel`:

- :class:`WordKenlm`: the model's units are words; a word is scored when the search reaches its end. For
  character vocabularies ("|" or "<space>" ends a word) and sentencepiece ones (a piece that begins with "▁"
  ends the word before it).
- :class:`TokenKenlm`: the model's units are the tokens of the dictionary, scored one by one.

The model must have been trained on text normalized as the vocabulary was (``config.yaml``:
text_normalization).
"""

import math
from pathlib import Path
from typing import Any, FrozenSet, NamedTuple, Sequence, Tuple, Union

from colld_fairseq.errors import ConfigError

LN_10 = math.log(10.0)
SPACES = ("|", "<space>", "\u2581", " ")  # tokens that are a word boundary and nothing else
PIECE_START = "\u2581"


def load_kenlm(path: Union[str, Path]) -> Any:
    """A kenlm.Model; ConfigError where kenlm is not installed or the file cannot be read."""
    try:
        import kenlm
    except ImportError as error:
        raise ConfigError(
            "decoding with an n-gram language model needs kenlm, which is not installed: pip install kenlm, "
            "or decode without a language model"
        ) from error
    if not Path(path).is_file():
        raise ConfigError(f"language model not found: {path}; give an ARPA or KenLM binary file")
    try:
        return kenlm.Model(str(path))
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"{path}: not a language model KenLM can read ({error}); give an ARPA or KenLM binary file"
        ) from error


class _Kenlm:
    """What both levels share: a model and its states (immutable once made)."""

    def __init__(self, path: Union[str, Path], symbols: Sequence[str]):
        self.model = load_kenlm(path)
        self.symbols = list(symbols)

    def prepare(self, states: Sequence[Any]) -> None:
        """Nothing: an n-gram model is asked one question at a time."""

    def _begin(self) -> Any:
        import kenlm

        state = kenlm.State()
        self.model.BeginSentenceWrite(state)
        return state

    def _advance(self, state: Any, unit: str) -> Tuple[Any, float]:
        """State after the unit, and its ln p (that of <unk> for a unit the model does not know)."""
        import kenlm

        after = kenlm.State()
        return after, LN_10 * self.model.BaseScore(state, unit, after)


class TokenKenlm(_Kenlm):
    """Model over dictionary tokens. ``symbols``: token of each id, as written in the model's training
    text."""

    def start(self) -> Any:
        return self._begin()

    def score(self, state: Any, token: int) -> Tuple[Any, float, int]:
        after, log_prob = self._advance(state, self.symbols[token])
        return after, log_prob, 1

    def finish(self, state: Any) -> Tuple[float, int]:
        return self._advance(state, "</s>")[1], 0


class WordState(NamedTuple):
    """History of complete words, and the letters of the word under way."""

    history: Any
    word: str


class WordKenlm(_Kenlm):
    """Model over words, for a search over characters or pieces.

    Args:
        symbols: token of each id.
        ignored: ids that are part of no word (language tags).
    """

    def __init__(self, path: Union[str, Path], symbols: Sequence[str], ignored: Sequence[int] = ()):
        super().__init__(path, symbols)
        self.ignored: FrozenSet[int] = frozenset(ignored)

    def start(self) -> WordState:
        return WordState(self._begin(), "")

    def _complete(self, state: WordState) -> Tuple[Any, float, int]:
        if not state.word:
            return state.history, 0.0, 0
        history, log_prob = self._advance(state.history, state.word)
        return history, log_prob, 1

    def score(self, state: WordState, token: int) -> Tuple[WordState, float, int]:
        if token in self.ignored:
            return state, 0.0, 0
        symbol = self.symbols[token]
        if symbol not in SPACES and not symbol.startswith(PIECE_START):
            return WordState(state.history, state.word + symbol), 0.0, 0
        history, log_prob, units = self._complete(state)
        word = "" if symbol in SPACES else symbol[len(PIECE_START) :]
        return WordState(history, word), log_prob, units

    def finish(self, state: WordState) -> Tuple[float, int]:
        history, log_prob, units = self._complete(state)
        return log_prob + self._advance(history, "</s>")[1], units
