"""What prefix searches share: the tree of prefixes with their language-model scores."""

from typing import Any, Dict, List, Optional, Protocol, Sequence, Tuple


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

    def __init__(self, lm: Optional[LanguageModel], lm_weight: float, length_score: float):
        self.parents: List[int] = [-1]
        self.tokens: List[int] = [-1]
        self.children: List[Dict[int, int]] = [{}]
        self.lm, self.lm_weight, self.length_score = lm, lm_weight, length_score
        self.bonus: List[float] = [0.0]  # weighted language-model and length score of the prefix
        self.lm_scores: List[float] = [0.0]
        self.lm_states: List[Any] = [lm.start() if lm is not None else None]
        self._cache: List[Dict[int, Tuple[Any, float, int]]] = [{}]

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
        return [base + self.lm_weight * log_prob + self.length_score * units for _, log_prob, units in steps]

    def extend(self, node: int, token: int) -> int:
        child = self.children[node].get(token)
        if child is None:
            state, log_prob, units = self._lm_step(node, token)
            child = len(self.parents)
            self.children[node][token] = child
            self.parents.append(node)
            self.tokens.append(token)
            self.children.append({})
            self.lm_states.append(state)
            self.lm_scores.append(self.lm_scores[node] + log_prob)
            self.bonus.append(self.bonus[node] + self.lm_weight * log_prob + self.length_score * units)
            self._cache.append({})
        return child

    def finish(self, node: int) -> Tuple[float, float]:
        """(bonus, lm_score) of the prefix as a complete utterance."""
        if self.lm is None:
            return self.bonus[node], 0.0
        log_prob, units = self.lm.finish(self.lm_states[node])
        return (
            self.bonus[node] + self.lm_weight * log_prob + self.length_score * units,
            self.lm_scores[node] + log_prob,
        )

    def labels(self, node: int) -> List[int]:
        tokens = []
        while node > 0:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tokens[::-1]
