"""fairseq language models (transformer_lm, lstm_lm) in beam search: shallow fusion over the dictionary's tokens.

The search asks for prefixes of any utterances at once, the network runs for those not asked for before: one token per
prefix, with what it kept of the tokens before. That is stored token by token (keys and values of one position, or the
LSTM's memory) and shared by all prefixes that begin alike, so memory grows with the number of prefixes, not with their
number times their length.

Shapes: N prefixes, U tokens (the leading </s> included), V symbols, M numbers kept of a token.
"""

from collections import defaultdict
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from colld_fairseq.compat import STEP_STATE, empty_step_state
from colld_fairseq.errors import ConfigError

IncrementalState = Dict[str, Dict[str, Optional[Tensor]]]


class Prefix:
    """A hypothesis as the language model sees it; :meth:`NeuralLm.prepare` sets `log_probs` [V], of what may follow,
    and `memory` [M], what the network keeps of the last token."""

    __slots__ = ("parent", "token", "length", "log_probs", "memory")

    def __init__(self, parent: Optional["Prefix"], token: int) -> None:
        self.parent, self.token = parent, token
        self.length: int = 1 if parent is None else parent.length + 1
        self.log_probs: Optional[np.ndarray] = None
        self.memory: Optional[Tensor] = None

    def memories(self) -> List[Tensor]:
        """What the network keeps of every token before the last, first to last."""
        memories, prefix = [], self.parent
        while prefix is not None:
            memories.append(prefix.memory)
            prefix = prefix.parent
        return memories[::-1]


class NeuralLm:
    """A :class:`~colld_fairseq.decoding.prefix_tree.LanguageModel` whose units are the tokens of the dictionary.

    Sentences begin after </s>, as fairseq trains them (`--sample-break-mode eos`); tokens that no search emits (blank,
    padding, language tags) keep their share of the probability.

    Args:
        model: fairseq language model over the same dictionary; put into eval mode.
        dictionary: that of the targets.

    Raises:
        ConfigError: if the model's dictionary is another one, or it is neither a Transformer nor an LSTM.
    """

    def __init__(self, model: nn.Module, dictionary: Any) -> None:
        own = model.decoder.dictionary
        if own.symbols != dictionary.symbols:
            raise ConfigError(
                f"the language model's dictionary ({len(own)} symbols) is not that of the recogniser "
                f"({len(dictionary)}): train it on text prepared with the recogniser's dict.txt"
            )
        model.eval()  # returns nothing where fairseq has prepared the model for inference
        self.model = model
        self.eos = dictionary.eos()
        self.first = Prefix(None, self.eos)
        self.kept: Optional[_Kept] = None

    def start(self) -> Prefix:
        return self.first

    def score(self, state: Prefix, token: int) -> Tuple[Prefix, float, int]:
        return Prefix(state, token), self.log_prob(state, token), 1

    def finish(self, state: Prefix) -> Tuple[float, int]:
        return self.log_prob(state, self.eos), 0

    def log_prob(self, prefix: Prefix, token: int) -> float:
        """ln p of a token after a prefix."""
        if prefix.log_probs is None:
            self.prepare([prefix])
        return float(prefix.log_probs[token])

    @torch.no_grad()
    def prepare(self, states: Sequence[Prefix]) -> None:
        """Run the network for many prefixes at once. A Transformer counts its positions from the width of its input:
        its prefixes run together with those of their length."""
        groups: Dict[int, Dict[int, Prefix]] = defaultdict(dict)
        for prefix in states:
            if prefix.log_probs is None:
                length = prefix.length if self.kept is None or self.kept.grows else min(prefix.length, 2)
                groups[length][id(prefix)] = prefix
        for length, prefixes in groups.items():
            self._step(list(prefixes.values()), length)

    def _step(self, prefixes: List[Prefix], length: int) -> None:
        """Log-probabilities and memories of prefixes, run as if all were of one length."""
        longest = self.model.max_positions()
        if length > longest:
            raise ConfigError(
                f"a hypothesis has {length - 1} tokens, the language model reads {longest - 1} at most: train one with "
                "more --tokens-per-sample, or decode without it"
            )
        device = next(self.model.parameters()).device
        state: IncrementalState = {}
        if prefixes[0].parent is not None:
            if self.kept.grows:
                memories = torch.stack([memory for prefix in prefixes for memory in prefix.memories()])
            else:
                memories = torch.stack([prefix.parent.memory for prefix in prefixes])
            state = self.kept.join(memories.unflatten(0, (len(prefixes), -1)))
        # Only the last token is read: what the network must know of the others is in the state.
        tokens = torch.full((len(prefixes), length), self.eos, device=device)
        tokens[:, -1] = torch.tensor([prefix.token for prefix in prefixes], device=device)
        output = self.model(tokens, incremental_state=state)
        log_probs = self.model.get_normalized_probs(output, log_probs=True, sample=None)[:, -1].float().cpu().numpy()
        if self.kept is None:
            self.kept = _Kept.of(state, type(self.model).__name__)
        for prefix, row, memory in zip(prefixes, log_probs, self.kept.split(state)):
            prefix.log_probs, prefix.memory = row, memory


class _Piece(NamedTuple):
    """One tensor of an incremental state, and its shape for one row and one token."""

    module: str
    name: str
    shape: torch.Size


class _Kept:
    """Incremental states of one network to and from one vector a row and token."""

    def __init__(self, pieces: List[_Piece]) -> None:
        self.pieces = pieces
        self.grows = any(STEP_STATE[piece.name][1] is not None for piece in pieces)

    @classmethod
    def of(cls, state: IncrementalState, model: str) -> "_Kept":
        """From the state after one token. ConfigError when no known tensor is in it."""
        known = [(key, name) for key, tensors in state.items() for name in tensors if name in STEP_STATE]
        if not known:
            raise ConfigError(f"fusion with a {model} is not supported; train a transformer_lm or lstm_lm")
        return cls([_Piece(key, name, _of_last_token(state[key][name], name).shape[1:]) for key, name in known])

    def split(self, state: IncrementalState) -> Tensor:
        """[N, M]: what is kept of the last token."""
        return torch.cat([_of_last_token(state[key][name], name).flatten(1) for key, name, _ in self.pieces], dim=1)

    def join(self, memories: Tensor) -> IncrementalState:
        """[N, U, M] of the tokens so far, [N, 1, M] of the last one for an LSTM."""
        state: IncrementalState = empty_step_state()
        parts = memories.split([piece.shape.numel() for piece in self.pieces], dim=2)
        for (key, name, shape), part in zip(self.pieces, parts):
            rows, tokens = STEP_STATE[name]
            x = part.unflatten(2, shape)
            x = x[:, 0] if tokens is None else x.movedim(1, tokens)
            state[key][name] = x.movedim(0, rows).contiguous()
        return dict(state)


def _of_last_token(tensor: Tensor, name: str) -> Tensor:
    """[N, ...]"""
    rows, tokens = STEP_STATE[name]
    if tokens is not None:
        tensor = tensor.select(tokens, -1)
    return tensor.movedim(rows, 0)
