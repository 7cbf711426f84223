"""Transducer decoding: the networks as a search sees them, hypotheses, and batched greedy search.

Shapes: B utterances, T frames, N rows of a search, J width of the joiner, V symbols. An utterance's result depends
neither on padding nor on what else is in the batch, up to rounding.

Topologies: in the `regular` one any number of labels may be emitted at a frame, and a blank leads to the next; in the
`modified` one a label leads to the next frame too (see `losses.transducer_lattice`).
"""

from dataclasses import dataclass, field, replace
from typing import List, Optional, Protocol, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from colld_fairseq.errors import ColldError

State = Tuple[Tensor, ...]

# Frames that greedy search joins at once to find the next label. Nearly all symbols are blanks; beyond some
# frames it computes joins that it does not need. Our choice.
LOOK_AHEAD = 8


class Network(Protocol):
    """A transducer behind its encoder. States are tuples of tensors whose first dimension is the row."""

    def start(self, rows: int, tags: Optional[Tensor] = None) -> Tuple[Tensor, State]:
        """Projected predictor output [N, J] and state before the first label; tags [N] of the target language."""

    def extend(self, tokens: Tensor, state: State) -> Tuple[Tensor, State]:
        """The same after one more label [N]."""

    def join(self, frames: Tensor, symbols: Tensor) -> Tensor:
        """Logits [..., V] of projected frames and predictor outputs [..., J]."""


class Scorer:
    """ln p of the next symbol by one network, or by several whose probabilities are averaged.

    Frames and predictor outputs of several networks stand side by side in the last dimension.

    Args:
        networks: their J widths are those of `widths`.
        blank: index of the blank.
        never_emitted: symbols that no hypothesis may hold.
        blank_penalty: taken from the blank's logit. Probabilities are normalised after that: every alignment has as
            many blanks as frames, so a penalty on ln p would change no order.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        widths: Sequence[int],
        blank: int = 0,
        never_emitted: Sequence[int] = (),
        blank_penalty: float = 0.0,
    ) -> None:
        self.networks, self.widths = list(networks), list(widths)
        self.blank, self.never_emitted, self.blank_penalty = blank, list(never_emitted), blank_penalty

    def start(self, rows: int, tags: Optional[Tensor] = None) -> Tuple[Tensor, State]:
        """Before the first label: predictor outputs [N, J] and the state."""
        return self._side_by_side([network.start(rows, tags) for network in self.networks])

    def extend(self, tokens: Tensor, state: State) -> Tuple[Tensor, State]:
        """After one more label [N]."""
        share = len(state) // len(self.networks)
        states = [state[i * share : (i + 1) * share] for i in range(len(self.networks))]
        return self._side_by_side([n.extend(tokens, own) for n, own in zip(self.networks, states)])

    def log_probs(self, frames: Tensor, symbols: Tensor) -> Tensor:
        """[..., J] and [..., J], broadcast -> float32 [..., V]."""
        parts = zip(self.networks, frames.split(self.widths, -1), symbols.split(self.widths, -1))
        found = []
        for network, own_frames, own_symbols in parts:
            logits = network.join(own_frames, own_symbols).float()
            if self.blank_penalty:
                logits[..., self.blank] -= self.blank_penalty
            found.append(torch.log_softmax(logits, dim=-1))
        log_probs = found[0]
        if len(found) > 1:
            log_probs = torch.stack(found).logsumexp(0) - torch.tensor(len(found)).log().item()
        for symbol in self.never_emitted:
            log_probs[..., symbol] = -torch.inf
        return log_probs

    def _side_by_side(self, outputs) -> Tuple[Tensor, State]:
        # One network is the usual case: the tensor itself then, without a copy.
        symbols = outputs[0][0] if len(outputs) == 1 else torch.cat([symbols for symbols, _ in outputs], dim=-1)
        return symbols, tuple(tensor for _, state in outputs for tensor in state)


@dataclass
class TransducerHypothesis:
    """One labelling of an utterance.

    Attributes:
        tokens: token ids without blanks.
        score: what hypotheses are ranked by: log_prob + lm_weight * lm_score + length_score * units.
        log_prob: ln p of the path (greedy) or of all paths the beam kept.
        lm_score: ln p by the language model, 0 without one.
        frames: frame at which each token is emitted on the most probable path.
        token_scores: ln p of that path, cut before each token (leading blanks go to the first token).
    """

    tokens: List[int]
    score: float
    log_prob: float
    lm_score: float = 0.0
    frames: List[int] = field(default_factory=list)
    token_scores: List[float] = field(default_factory=list)


def check_frames(frames: Tensor, lengths: Tensor, max_symbols: int) -> None:
    """ColldError when shapes or lengths do not fit, or no label may ever be emitted."""
    if frames.dim() != 3 or lengths.shape != frames.shape[:1]:
        shapes = f"{tuple(frames.shape)} and {tuple(lengths.shape)}"
        raise ColldError(f"expected frames [B, T, J] and lengths [B], got {shapes}")
    if len(lengths) and not 0 <= int(lengths.min()) <= int(lengths.max()) <= frames.size(1):
        raise ColldError(f"lengths {lengths.tolist()} do not fit frames of shape {tuple(frames.shape)}")
    if max_symbols < 1:
        raise ColldError(f"max_symbols ({max_symbols}) must be at least 1")


def check_number(value: float, utterance: int) -> None:
    if value != value:
        raise ColldError(
            f"utterance {utterance} of the batch: log-probabilities are NaN; the model has diverged, or its input"
            " holds NaN"
        )


@dataclass
class GreedyState:
    """Greedy search of N utterances after some of their frames.

    Attributes:
        symbols, state: the network's after the last label: [N, J] and tensors [N, ...].
        hypotheses: what was found so far.
        seen: frames so far.
    """

    symbols: Tensor
    state: State
    hypotheses: List[TransducerHypothesis]
    seen: List[int]

    @classmethod
    def start(cls, scorer: Scorer, rows: int, tags: Optional[Tensor] = None) -> "GreedyState":
        """Before the first frame; tags int64 [N] of the target languages."""
        hypotheses = [TransducerHypothesis([], 0.0, 0.0) for _ in range(rows)]
        return cls(*scorer.start(rows, tags), hypotheses, [0] * rows)

    @classmethod
    def join(cls, states: Sequence["GreedyState"]) -> "GreedyState":
        """Utterances of several states as one batch."""
        return cls(
            torch.cat([one.symbols for one in states]),
            tuple(map(torch.cat, zip(*(one.state for one in states)))),
            [hypothesis for one in states for hypothesis in one.hypotheses],
            [seen for one in states for seen in one.seen],
        )

    def split(self) -> List["GreedyState"]:
        """The state of each utterance as a batch of one."""
        rows = zip(self.symbols.split(1), zip(*(tensor.split(1) for tensor in self.state)), self.hypotheses, self.seen)
        return [GreedyState(symbols, state, [hypothesis], [seen]) for symbols, state, hypothesis, seen in rows]


def greedy_transducer(
    scorer: Scorer,
    frames: Tensor,
    lengths: Tensor,
    tags: Optional[Tensor] = None,
    max_symbols: int = 10,
    topology: str = "regular",
) -> List[TransducerHypothesis]:
    """The most probable symbol at every step, for a whole batch at once.

    Args:
        frames: [B, T, J] projected encoder output.
        lengths: int64 [B].
        tags: int64 [B] of the target languages.
        max_symbols: labels at one frame; after them a blank is forced (regular topology).
    """
    start = GreedyState.start(scorer, len(frames), tags)
    return continue_greedy(scorer, frames, lengths, start, max_symbols, topology).hypotheses


def continue_greedy(
    scorer: Scorer,
    frames: Tensor,
    lengths: Tensor,
    before: GreedyState,
    max_symbols: int = 10,
    topology: str = "regular",
) -> GreedyState:
    """Greedy search over the next frames of utterances: in pieces the same as over all frames at once.

    Every turn of the loop finds the next label of every utterance, however many blanks lie before it ("label looping",
    Bataev et al. 2024, arXiv 2406.06220); a few frames are joined at once, because the predictor's output does not
    change over blanks. There are about as many turns as the longest utterance has labels.

    Args:
        frames, lengths, max_symbols, topology: see :func:`greedy_transducer`; a length may be 0.
        before: where the search stands; it stays as it is.
    """
    check_frames(frames, lengths, max_symbols)

    def indices(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(frames.device)

    symbols, state, seen = before.symbols, before.state, before.seen
    hypotheses = [
        replace(h, tokens=list(h.tokens), frames=list(h.frames), token_scores=list(h.token_scores))
        for h in before.hypotheses
    ]
    # Everything but the networks is done by numpy: its small operations take a fraction of torch's time, and from a GPU
    # there is one copy a turn.
    limits, longest, flat = lengths.cpu().numpy(), frames.size(1), frames.flatten(0, 1)
    now = np.zeros_like(limits)  # frame of each utterance
    emitted = np.zeros_like(limits)  # labels at that frame: a frame is only left for the next piece by a blank
    ahead = np.arange(LOOK_AHEAD)
    active = np.flatnonzero(now < limits)
    while len(active):
        steps = now[active, None] + ahead
        inside = steps < limits[active, None]
        places = active[:, None] * longest + np.minimum(steps, longest - 1)
        here = flat.index_select(0, indices(places.ravel())).view(*places.shape, -1)
        log_probs = scorer.log_probs(here, symbols.index_select(0, indices(active))[:, None])
        best, token = log_probs.max(dim=-1)  # [A, look-ahead]
        to_blank = log_probs[..., scorer.blank]
        # As float32 a token is exact up to 2^24.
        best, to_blank, token = torch.stack((best, to_blank, token.to(best.dtype))).cpu().numpy()
        is_label = (token != scorer.blank) & inside
        is_label[:, 0] &= emitted[active] < max_symbols
        found = is_label.any(axis=1)
        first = np.where(found, is_label.argmax(axis=1), LOOK_AHEAD)
        blanks = (ahead < first[:, None]) & inside
        passed = blanks.sum(axis=1)
        for i, score in zip(active.tolist(), np.where(blanks, to_blank, 0.0).sum(axis=1, dtype=np.float64).tolist()):
            check_number(score, i)
            hypotheses[i].log_prob += score
            if hypotheses[i].tokens:
                hypotheses[i].token_scores[-1] += score
        emitted[active] = np.where(passed > 0, 0, emitted[active])
        now[active] += passed
        rows, place = active[found], first[found]
        if len(rows):
            tokens = token[found, place].astype(np.int64)
            emissions = zip(rows.tolist(), tokens.tolist(), now[rows].tolist(), best[found, place].tolist())
            for i, new_token, frame, score in emissions:
                check_number(score, i)
                hypothesis = hypotheses[i]
                # Blanks before the first label are on its account.
                hypothesis.token_scores.append(score if hypothesis.tokens else hypothesis.log_prob + score)
                hypothesis.log_prob += score
                hypothesis.tokens.append(new_token)
                hypothesis.frames.append(seen[i] + frame)
            where = indices(rows)
            changed = scorer.extend(indices(tokens), tuple(tensor.index_select(0, where) for tensor in state))
            symbols = symbols.index_copy(0, where, changed[0])
            state = tuple(tensor.index_copy(0, where, new) for tensor, new in zip(state, changed[1]))
            (now if topology == "modified" else emitted)[rows] += 1
        active = np.flatnonzero(now < limits)
    for hypothesis in hypotheses:
        hypothesis.score = hypothesis.log_prob
    return GreedyState(symbols, state, hypotheses, [old + new for old, new in zip(seen, limits.tolist())])
