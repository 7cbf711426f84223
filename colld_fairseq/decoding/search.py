"""Ways of searching a transducer, with their settings: whole utterances at once, or streams piece by piece.

state = search.start(scorer, rows)
state = search.proceed(scorer, frames, lengths, state)    # as often as there is more to hear
n_best = search.n_best(state)                             # at any time: as if the utterances ended there
"""

from typing import Any, List, Optional, Protocol, Sequence

from torch import Tensor

from colld_fairseq.decoding.prefix_tree import LanguageModel
from colld_fairseq.decoding.transducer import GreedyState, Scorer, TransducerHypothesis, continue_greedy
from colld_fairseq.decoding.transducer_beam import BeamState, continue_beam


class Search(Protocol):
    """What decoding asks of a way of searching. States are of N utterances, any of which may be joined to a batch."""

    def start(self, scorer: Scorer, rows: int, tags: Optional[Tensor] = None) -> Any:
        """The state before the first frame; tags int64 [N] of the target languages."""

    def join(self, states: Sequence[Any]) -> Any:
        """Utterances of several states as one batch."""

    def split(self, state: Any) -> List[Any]:
        """The state of each utterance as a batch of one."""

    def proceed(self, scorer: Scorer, frames: Tensor, lengths: Tensor, state: Any) -> Any:
        """The state after more frames [N, T, J], of which `lengths` [N] are valid; the one given stays as it is."""

    def n_best(self, state: Any) -> List[List[TransducerHypothesis]]:
        """Hypotheses of each utterance so far, best first: at least one."""


class GreedySearch:
    """The most probable symbol at every step, see :func:`~colld_fairseq.decoding.transducer.greedy_transducer`."""

    def __init__(self, max_symbols: int = 10, topology: str = "regular") -> None:
        self.max_symbols, self.topology = max_symbols, topology

    def start(self, scorer: Scorer, rows: int, tags: Optional[Tensor] = None) -> GreedyState:
        return GreedyState.start(scorer, rows, tags)

    def join(self, states: Sequence[GreedyState]) -> GreedyState:
        return GreedyState.join(states)

    def split(self, state: GreedyState) -> List[GreedyState]:
        return state.split()

    def proceed(self, scorer: Scorer, frames: Tensor, lengths: Tensor, state: GreedyState) -> GreedyState:
        return continue_greedy(scorer, frames, lengths, state, self.max_symbols, self.topology)

    def n_best(self, state: GreedyState) -> List[List[TransducerHypothesis]]:
        return [[hypothesis] for hypothesis in state.hypotheses]


class BeamSearch:
    """Modified beam search, see :func:`~colld_fairseq.decoding.transducer_beam.transducer_beam_search`."""

    def __init__(
        self,
        beam: int = 4,
        nbest: int = 1,
        max_symbols: int = 10,
        topology: str = "regular",
        lm: Optional[LanguageModel] = None,
        lm_weight: float = 0.0,
        length_score: float = 0.0,
    ) -> None:
        self.beam, self.nbest, self.max_symbols, self.topology = beam, nbest, max_symbols, topology
        self.lm, self.lm_weight, self.length_score = lm, lm_weight, length_score

    def start(self, scorer: Scorer, rows: int, tags: Optional[Tensor] = None) -> BeamState:
        return BeamState.start(scorer, rows, tags, self.lm, self.lm_weight, self.length_score)

    def join(self, states: Sequence[BeamState]) -> BeamState:
        return BeamState.join(states)

    def split(self, state: BeamState) -> List[BeamState]:
        return state.split()

    def proceed(self, scorer: Scorer, frames: Tensor, lengths: Tensor, state: BeamState) -> BeamState:
        return continue_beam(scorer, frames, lengths, state, self.beam, self.max_symbols, self.topology)

    def n_best(self, state: BeamState) -> List[List[TransducerHypothesis]]:
        return state.n_best(self.nbest)
