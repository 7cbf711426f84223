"""Transducer decoding: the networks as a search sees them, and batched greedy search.

Shapes: B utterances, T frames, N rows of a search, J width of the joiner, V symbols. An utterance's result depends
neither on padding nor on what else is in the batch, up to rounding.

Topologies: in the `regular` one any number of labels may be emitted per frame, and a blank leads to the next; in the
`modified` one a label leads to the next frame too (see `losses.transducer_lattice`).
"""

from dataclasses import dataclass, replace
from typing import List, Optional, Protocol, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from colld_fairseq.constants import LOOK_AHEAD
from colld_fairseq.decoding.checks import check_number, check_shapes
from colld_fairseq.decoding.hypothesis import Hypothesis, Models, NBest
from colld_fairseq.decoding.search import Search
from colld_fairseq.errors import ColldError
from colld_fairseq.modules.transducer import State


class Network(Protocol):
    """A transducer behind its encoder. States are tuples of tensors whose first dimension is the row."""

    def start(self, rows: int, tags: Optional[Tensor] = None) -> Tuple[Tensor, State]:
        """Projected predictor output [N, J] and state before the first label; tags [N] of the target language."""

    def extend(self, tokens: Tensor, state: State) -> Tuple[Tensor, State]:
        """The same after one more label [N]."""

    def join(self, frames: Tensor, symbols: Tensor) -> Tensor:
        """Logits [..., V] of projected frames and predictor outputs [..., J]."""


@dataclass
class Scorer:
    """ln p of the next symbol by one network, or by several whose probabilities are averaged.

    Frames and predictor outputs of several networks stand side by side in the last dimension.

    Args:
        networks: their J widths are those of `widths`.
        blank: index of the blank.
        never_emitted: symbols that no hypothesis may hold.
        blank_penalty: taken from the blank's logit. Probabilities are normalized after that: every alignment has as
            many blanks as frames, so a penalty on ln p would change no order.
    """

    networks: Sequence[Network]
    widths: Sequence[int]
    blank: int = 0
    never_emitted: Sequence[int] = ()
    blank_penalty: float = 0.0

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
        outputs = []
        for network, own_frames, own_symbols in parts:
            logits = network.join(own_frames, own_symbols).float()
            if self.blank_penalty:
                logits[..., self.blank] -= self.blank_penalty
            outputs.append(torch.log_softmax(logits, dim=-1))
        log_probs = outputs[0]
        if len(outputs) > 1:
            log_probs = torch.stack(outputs).logsumexp(0) - torch.tensor(len(outputs)).log().item()
        log_probs[..., list(self.never_emitted)] = -torch.inf
        return log_probs

    def _side_by_side(self, outputs) -> Tuple[Tensor, State]:
        # One network is the usual case: the tensor itself then, without a copy.
        symbols = outputs[0][0] if len(outputs) == 1 else torch.cat([symbols for symbols, _ in outputs], dim=-1)
        return symbols, tuple(tensor for _, state in outputs for tensor in state)


def check_frames(frames: Tensor, lengths: Tensor, max_symbols: int) -> None:
    """ColldError when shapes or lengths do not fit, or no label may ever be emitted."""
    check_shapes(frames, lengths)
    if max_symbols < 1:
        raise ColldError(f"max_symbols ({max_symbols}) must be at least 1")


@dataclass
class GreedyState:
    """Greedy search of N utterances after some of their frames.

    Attributes:
        symbols, state: the network's after the last label: [N, J] and tensors [N, ...].
        hypotheses: of each utterance so far.
        seen: frames so far.
    """

    symbols: Tensor
    state: State
    hypotheses: List[Hypothesis]
    seen: List[int]

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


@dataclass(frozen=True)
class GreedySearch(Search):
    """The most probable symbol at every step, for a whole batch at once.

    Every turn of the loop finds the next label of every utterance, however many blanks lie before it ("label looping",
    Bataev et al. 2024, arXiv 2406.06220); a few frames are joined at once, because the predictor's output does not
    change over blanks. There are about as many turns as the longest utterance has labels.

    Args:
        max_symbols: labels per frame; after them a blank is forced (regular topology).
    """

    max_symbols: int = 10
    topology: str = "regular"

    def start(self, scorer: Scorer, rows: int, tags: Optional[Tensor] = None) -> GreedyState:
        return GreedyState(*scorer.start(rows, tags), [Hypothesis([], 0.0, 0.0) for _ in range(rows)], [0] * rows)

    def n_best(self, state: GreedyState) -> NBest:
        return [[hypothesis] for hypothesis in state.hypotheses]

    def proceed(self, scorer: Scorer, frames: Tensor, lengths: Tensor, state: GreedyState) -> GreedyState:
        check_frames(frames, lengths, self.max_symbols)

        def indices(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(frames.device)

        symbols, predictor, seen = state.symbols, state.state, state.seen
        hypotheses = [
            replace(h, tokens=list(h.tokens), frames=list(h.frames), token_scores=list(h.token_scores))
            for h in state.hypotheses
        ]
        # Everything but the networks is done by numpy: its small operations take a fraction of torch's time, and from
        # a GPU there is one copy per turn.
        limits, longest, flat = lengths.cpu().numpy(), frames.size(1), frames.flatten(0, 1)
        now = np.zeros_like(limits)  # frame of each utterance
        emitted = np.zeros_like(limits)  # labels at that frame: a frame is only left for the next piece by a blank
        ahead = np.arange(LOOK_AHEAD)
        active = np.flatnonzero(now < limits)
        while len(active):
            steps = now[active, None] + ahead
            inside = steps < limits[active, None]
            rows = active[:, None] * longest + np.minimum(steps, longest - 1)
            here = flat.index_select(0, indices(rows.ravel())).view(*rows.shape, -1)
            log_probs = scorer.log_probs(here, symbols.index_select(0, indices(active))[:, None])
            best, token = log_probs.max(dim=-1)  # [A, look-ahead]
            to_blank = log_probs[..., scorer.blank]
            # As float32 a token is exact up to 2^24.
            best, to_blank, token = torch.stack((best, to_blank, token.to(best.dtype))).cpu().numpy()
            is_label = (token != scorer.blank) & inside
            is_label[:, 0] &= emitted[active] < self.max_symbols
            emits = is_label.any(axis=1)
            first = np.where(emits, is_label.argmax(axis=1), LOOK_AHEAD)
            blanks = (ahead < first[:, None]) & inside
            passed = blanks.sum(axis=1)
            of_blanks = np.where(blanks, to_blank, 0.0).sum(axis=1, dtype=np.float64)
            for i, score in zip(active.tolist(), of_blanks.tolist()):
                check_number(score, i)
                hypotheses[i].log_prob += score
                if hypotheses[i].tokens:
                    hypotheses[i].token_scores[-1] += score
            emitted[active] = np.where(passed > 0, 0, emitted[active])
            now[active] += passed
            rows, step = active[emits], first[emits]
            if len(rows):
                tokens = token[emits, step].astype(np.int64)
                emissions = zip(rows.tolist(), tokens.tolist(), now[rows].tolist(), best[emits, step].tolist())
                for i, new_token, frame, score in emissions:
                    check_number(score, i)
                    hypothesis = hypotheses[i]
                    # The blanks before the first label count towards its score.
                    hypothesis.token_scores.append(score if hypothesis.tokens else hypothesis.log_prob + score)
                    hypothesis.log_prob += score
                    hypothesis.tokens.append(new_token)
                    hypothesis.frames.append(seen[i] + frame)
                where = indices(rows)
                changed = scorer.extend(indices(tokens), tuple(tensor.index_select(0, where) for tensor in predictor))
                symbols = symbols.index_copy(0, where, changed[0])
                predictor = tuple(tensor.index_copy(0, where, new) for tensor, new in zip(predictor, changed[1]))
                (now if self.topology == "modified" else emitted)[rows] += 1
            active = np.flatnonzero(now < limits)
        for hypothesis in hypotheses:
            hypothesis.score = hypothesis.log_prob
        return GreedyState(symbols, predictor, hypotheses, [old + new for old, new in zip(seen, limits.tolist())])


@dataclass
class TransducerDecoder:
    """Transducer decoding by a model, or by several whose probabilities are averaged at every step.

    Models must offer `encode_for_search(source, lengths) -> (frames [B, T, J], lengths [B])` and be a :class:`Network`;
    the frames of an ensemble must lie at the same times.

    Args:
        search: :class:`GreedySearch` or beam search.
        blank, never_emitted, blank_penalty: see :class:`Scorer`.
    """

    search: Search
    blank: int = 0
    never_emitted: Sequence[int] = ()
    blank_penalty: float = 0.0

    def scorer(self, models: Sequence[nn.Module], widths: Sequence[int]) -> Scorer:
        """What the search asks, of models whose projected frames are so wide."""
        return Scorer(models, widths, self.blank, self.never_emitted, self.blank_penalty)

    @torch.no_grad()
    def decode(self, models: Models, source: Tensor, lengths: Tensor, tags: Optional[Tensor] = None) -> NBest:
        """n-best lists of utterances, best first: source [B, ...] and lengths [B] as the models take them.

        Models are in eval mode. tags int64 [B]: of the target languages, in no hypothesis.
        """
        frames, counts = zip(*(model.encode_for_search(source, lengths) for model in models))
        if any(not torch.equal(counts[0], other) for other in counts[1:]):
            raise ColldError("models of the ensemble give different numbers of frames; their front-ends must agree")
        scorer = self.scorer(models, [one.size(-1) for one in frames])
        joined = frames[0] if len(frames) == 1 else torch.cat(frames, dim=-1)
        return self.search(scorer, joined, counts[0], tags)
