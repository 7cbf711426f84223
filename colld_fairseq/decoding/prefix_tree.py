"""What prefix searches share: the tree of prefixes with their language-model scores."""

import copy
from typing import Any, Dict, Iterable, List, Optional, Protocol, Sequence, Tuple


class LanguageModel(Protocol):
    """What prefix beam search asks of a language model. Log-probabilities are natural."""

    def start(self) -> Any:
        """State before the first token."""

    def prepare(self, states: Sequence[Any]) -> None:
        """Told which states are asked about next, of all hypotheses: a network runs once for all of them."""

    def score(self, state: Any, token: int) -> Tuple[Any, float, int]:
        """New state, ln p of the units the token completes, and how many units (words or tokens) that is."""

    def finish(self, state: Any) -> Tuple[float, int]:
        """ln p (end of sentence included) and number of the units that the end of the utterance completes."""


class PrefixTree:
    """All prefixes met during a search. A prefix is a node; the same prefix always gets the same node, which
    is what makes merging of paths correct when a prefix leaves the beam and returns. Node 0 is the empty one."""

    def __init__(self, lm: Optional[LanguageModel], lm_weight: float, length_bonus: float):
        self.parents: Dict[int, int] = {0: -1}
        self.tokens: Dict[int, int] = {0: -1}
        self.children: Dict[int, Dict[int, int]] = {0: {}}
        self.lm, self.lm_weight, self.length_bonus = lm, lm_weight, length_bonus
        self.bonus: Dict[int, float] = {0: 0.0}  # weighted language-model score and length bonuses of the prefix
        self.lm_scores: Dict[int, float] = {0: 0.0}
        self.lm_states: Dict[int, Any] = {0: lm.start() if lm is not None else None}
        self._cache: Dict[int, Dict[int, Tuple[Any, float, int]]] = {0: {}}
        self._next = 1  # the next node; none is given twice

    def prepare(self, nodes: Sequence[int]) -> None:
        """Say which prefixes are extended or finished next."""
        if self.lm is not None:
            self.lm.prepare([self.lm_states[node] for node in nodes])

    def _lm_step(self, node: int, token: int) -> Tuple[Any, float, int]:
        if self.lm is None:
            return None, 0.0, 1
        cache = self._cache[node]
        if token not in cache:
            cache[token] = self.lm.score(self.lm_states[node], token)
        return cache[token]

    def extension_bonus(self, node: int, tokens: Sequence[int]) -> List[float]:
        """Bonus of the prefix extended by each token."""
        base = self.bonus[node]
        steps = [self._lm_step(node, token) for token in tokens]
        return [base + self.lm_weight * log_prob + self.length_bonus * units for _, log_prob, units in steps]

    def extend(self, node: int, token: int) -> int:
        child = self.children[node].get(token)
        if child is None:
            state, log_prob, units = self._lm_step(node, token)
            child, self._next = self._next, self._next + 1
            self.children[node][token] = child
            self.parents[child] = node
            self.tokens[child] = token
            self.children[child] = {}
            self.lm_states[child] = state
            self.lm_scores[child] = self.lm_scores[node] + log_prob
            self.bonus[child] = self.bonus[node] + self.lm_weight * log_prob + self.length_bonus * units
            self._cache[child] = {}
        return child

    def finish(self, node: int) -> Tuple[float, float]:
        """(bonus, lm_score) of the prefix as a complete utterance."""
        if self.lm is None:
            return self.bonus[node], 0.0
        log_prob, units = self.lm.finish(self.lm_states[node])
        return (
            self.bonus[node] + self.lm_weight * log_prob + self.length_bonus * units,
            self.lm_scores[node] + log_prob,
        )

    def reachable(self, nodes: Iterable[int]) -> "PrefixTree":
        """A copy with what a search that goes on from these prefixes can meet again: they themselves, and what lies
        between one of them and another. Nodes keep their numbers; :meth:`labels` no longer knows how they begin."""
        kept = set(nodes)
        for node in list(kept):
            between, above = [], self.parents[node]
            while above in self.parents and above not in kept:
                between.append(above)
                above = self.parents[above]
            if above in kept:
                kept.update(between)
        tree = copy.copy(self)
        tree.parents, tree.tokens, tree.bonus, tree.lm_scores, tree.lm_states, tree._cache = (
            {node: of_node[node] for node in kept}
            for of_node in (self.parents, self.tokens, self.bonus, self.lm_scores, self.lm_states, self._cache)
        )
        tree.children = {
            node: {token: child for token, child in self.children[node].items() if child in kept} for node in kept
        }
        return tree

    def labels(self, node: int) -> List[int]:
        tokens = []
        while node > 0:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]
