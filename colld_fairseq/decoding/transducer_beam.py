"""Modified beam search of transducers: frame by frame, a few labels per frame, equal hypotheses merged.

At every frame the hypotheses of the beam are extended by 0, 1, 2, ... labels, at most `max_symbols`, and then by the
blank that leads to the next frame; alignments of one hypothesis that meet there are added up (time-synchronous
decoding, Saon et al. 2020, arXiv 2002.03928). In the `modified` topology a label leads to the next frame itself, one
join per frame (icefall's modified_beam_search). Exact where the beam is large and no frame needs more labels.

All hypotheses of all utterances are joined at once; which are kept is decided utterance by utterance.

A stream is searched piece by piece. Between two pieces only what can be met again is kept: of the tree the hypotheses
of the beam and what lies between them (a few labels: as far as hypotheses of one frame differ in length), of the
predictor one row for each hypothesis of the beam. All of a beam share what their labels have in common, so what grows
with an utterance is its labels alone. (A neural language model keeps besides what it makes of each of them.)
"""

import math
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from colld_fairseq.decoding.checks import check_number
from colld_fairseq.decoding.hypothesis import Hypothesis, NBest
from colld_fairseq.decoding.prefix_tree import LanguageModel, PrefixTree
from colld_fairseq.decoding.search import Search
from colld_fairseq.decoding.transducer import Scorer, State, check_frames
from colld_fairseq.errors import ColldError

# The labels of a path, last first: (rest of the path, label, its frame, ln p of the path before it).
Path = Optional[Tuple["Path", int, int, float]]


@dataclass(slots=True)
class Candidate:
    """A hypothesis under way: node of the prefix tree, ln p over the alignments kept, ln p and path of the best one."""

    node: int
    log_prob: float
    best: float
    path: Path

    def merge(self, other: "Candidate") -> None:
        """Add the alignments of another candidate for the same labels."""
        if other.best > self.best:
            self.best, self.path = other.best, other.path
        high, low = max(self.log_prob, other.log_prob), min(self.log_prob, other.log_prob)
        self.log_prob = high + math.log1p(math.exp(low - high)) if low > -math.inf else high


class Predictions:
    """Predictor outputs and states of the nodes of all utterances, in tables that grow.

    Attributes:
        symbols, state: [N, J] and tensors [N, ...], of which the first `used` rows hold something.
        slots: of each utterance: node -> row.
    """

    def __init__(self, symbols: Tensor, state: State, slots: List[Dict[int, int]]) -> None:
        self.symbols, self.state, self.slots, self.used = symbols, state, slots, len(symbols)

    @classmethod
    def join(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """The utterances of several tables in one."""
        slots: List[Dict[int, int]] = []
        rows = 0
        for part in parts:
            slots += [{node: rows + row for node, row in own.items()} for own in part.slots]
            rows += len(part.symbols)
        state = tuple(map(torch.cat, zip(*(part.state for part in parts))))
        return cls(torch.cat([part.symbols for part in parts]), state, slots)

    def select(self, nodes: Sequence[Sequence[int]]) -> "Predictions":
        """A table of these nodes of each utterance, and no other row."""
        rows: List[int] = []
        slots = []
        for own, wanted in zip(self.slots, nodes):
            slots.append({node: len(rows) + i for i, node in enumerate(wanted)})
            rows += [own[node] for node in wanted]
        where = torch.tensor(rows, dtype=torch.int64, device=self.symbols.device)
        return Predictions(self.symbols[where], tuple(x[where] for x in self.state), slots)

    def split(self) -> List["Predictions"]:
        """Of each utterance one, from a table of selected nodes."""
        sizes = [len(own) for own in self.slots]
        states = zip(*(x.split(sizes) for x in self.state))
        slots = [{node: i for i, node in enumerate(own)} for own in self.slots]
        parts = zip(self.symbols.split(sizes), states, slots)
        return [Predictions(symbols, state, [own]) for symbols, state, own in parts]

    def of(self, scorer: Scorer, trees: List[PrefixTree], rows: List[Tuple[int, Candidate]]) -> Tensor:
        """Predictor outputs [N, J] of (utterance, candidate) rows, computed where they are not known yet.

        The parent of a new node is known: a node is made by extending a candidate that was asked for.
        """
        missing = [(i, candidate.node) for i, candidate in rows if candidate.node not in self.slots[i]]
        if missing:
            device = self.symbols.device
            parents = [self.slots[i][trees[i].parents[node]] for i, node in missing]
            tokens = torch.tensor([trees[i].tokens[node] for i, node in missing], device=device)
            parents = torch.tensor(parents, device=device)
            symbols, state = scorer.extend(tokens, tuple(x[parents] for x in self.state))
            for i, node in missing:
                self.slots[i][node] = self.used
                self.used += 1
            self.symbols = _append(self.symbols, symbols, self.used)
            self.state: State = tuple(_append(old, new, self.used) for old, new in zip(self.state, state))
        wanted = [self.slots[i][candidate.node] for i, candidate in rows]
        return self.symbols[torch.tensor(wanted, device=self.symbols.device)]


def _append(table: Tensor, rows: Tensor, used: int) -> Tensor:
    """`rows` written before row `used` of a table that doubles when it is full."""
    if used > len(table):
        table = torch.cat((table, table.new_zeros(max(used - len(table), len(table)), *table.shape[1:])))
    table[used - len(rows) : used] = rows
    return table


@dataclass
class BeamState:
    """Beam search of N utterances after some of their frames.

    Attributes:
        trees: the prefixes of each utterance.
        beams: its hypotheses, most probable first.
        predictions: of the predictor for them.
        seen: frames so far.
    """

    trees: List[PrefixTree]
    beams: List[List[Candidate]]
    predictions: Predictions
    seen: List[int]

    @classmethod
    def join(cls, states: Sequence["BeamState"]) -> "BeamState":
        """Utterances of several states as one batch."""
        return cls(
            [tree for one in states for tree in one.trees],
            [beam for one in states for beam in one.beams],
            Predictions.join([one.predictions for one in states]),
            [seen for one in states for seen in one.seen],
        )

    def split(self) -> List["BeamState"]:
        """The state of each utterance as a batch of one, with no more than is needed to go on."""
        state = self.compact()
        parts = zip(state.trees, state.beams, state.predictions.split(), state.seen)
        return [BeamState([tree], [beam], own, [seen]) for tree, beam, own, seen in parts]

    def compact(self) -> "BeamState":
        """A copy with no more than is needed to go on. In the modified topology the predictor has not read the last
        label of some hypotheses: for these the row of their parent is kept."""
        nodes = [
            list(dict.fromkeys(c.node if c.node in slots else tree.parents[c.node] for c in beam))
            for tree, beam, slots in zip(self.trees, self.beams, self.predictions.slots)
        ]
        trees = [tree.reachable(c.node for c in beam) for tree, beam in zip(self.trees, self.beams)]
        return BeamState(trees, list(self.beams), self.predictions.select(nodes), list(self.seen))


@dataclass(frozen=True)
class BeamSearch(Search):
    """The most probable hypotheses, each summed over the alignments that the beam kept.

    Args:
        beam: hypotheses kept after every frame.
        nbest: hypotheses returned per utterance, at most `beam`.
        max_symbols: labels per frame (regular topology).
        lm, lm_weight, length_bonus: as for :func:`~colld_fairseq.decoding.ctc.prefix_beam_search`.
        beam_size_token: most probable labels considered for each hypothesis where a language model may reorder them.
    """

    beam: int = 4
    nbest: int = 1
    max_symbols: int = 10
    topology: str = "regular"
    lm: Optional[LanguageModel] = None
    lm_weight: float = 0.0
    length_bonus: float = 0.0
    beam_size_token: int = 40

    def __post_init__(self) -> None:
        if min(self.beam, self.nbest, self.beam_size_token) < 1:
            sizes = f"beam ({self.beam}), nbest ({self.nbest}) and beam_size_token ({self.beam_size_token})"
            raise ColldError(f"{sizes} must be at least 1")

    def start(self, scorer: Scorer, rows: int, tags: Optional[Tensor] = None) -> BeamState:
        trees = [PrefixTree(self.lm, self.lm_weight, self.length_bonus) for _ in range(rows)]
        beams = [[Candidate(0, 0.0, 0.0, None)] for _ in range(rows)]
        predictions = Predictions(*scorer.start(rows, tags), [{0: i} for i in range(rows)])
        return BeamState(trees, beams, predictions, [0] * rows)

    def n_best(self, state: BeamState) -> NBest:
        utterances = list(zip(state.trees, state.beams))
        if self.lm is not None:
            self.lm.prepare([tree.lm_states[c.node] for tree, beam in utterances for c in beam])
        return [_finish(beam, tree, self.nbest) for tree, beam in utterances]

    def proceed(self, scorer: Scorer, frames: Tensor, lengths: Tensor, state: BeamState) -> BeamState:
        check_frames(frames, lengths, self.max_symbols)
        counts, regular = lengths.tolist(), self.topology == "regular"
        state = state.compact()
        trees, beams, predictions = state.trees, state.beams, state.predictions
        wide = self.beam_size_token if self.lm is not None else self.beam
        for t in range(max(counts, default=0)):
            now = [seen + t for seen in state.seen]
            level = [(i, candidate) for i, count in enumerate(counts) if t < count for candidate in beams[i]]
            pools: Dict[int, Dict[int, Candidate]] = {i: {} for i, _ in level}  # what reaches the next frame
            for extra in range(self.max_symbols + 1 if regular else 1):
                where = torch.tensor([i for i, _ in level], device=frames.device)
                log_probs = scorer.log_probs(frames[where, t], predictions.of(scorer, trees, level))
                for (i, candidate), blank in zip(level, log_probs[:, scorer.blank].tolist()):
                    check_number(blank, i)
                    _add(pools[i], candidate.node, candidate, blank, candidate.path)
                if regular and extra == self.max_symbols:
                    break
                if self.lm is not None:
                    self.lm.prepare([trees[i].lm_states[candidate.node] for i, candidate in level])
                log_probs[:, scorer.blank] = -torch.inf
                values, labels = log_probs.topk(min(wide, log_probs.size(1)))
                level = _extend(level, values.tolist(), labels.tolist(), trees, pools, self.beam, now, self.topology)
                if not level:
                    break
            for i, pool in pools.items():
                if not pool:
                    raise ColldError(
                        f"utterance {i} of the batch: no path has a probability above zero at frame {now[i]}"
                    )
                beams[i] = _best(pool.values(), trees[i], self.beam)
        return BeamState(trees, beams, predictions, [old + new for old, new in zip(state.seen, counts)])


def _extend(level, values, labels, trees, pools, beam: int, now, topology: str) -> List[Tuple[int, Candidate]]:
    """The best extensions by one label, at most `beam` per utterance; `now` are their frames.

    In the regular topology they stay at the frame: those below what already fills the beam of the next frame are left
    out, for they can only lose (but for a length bonus, whose gain by further labels at this frame is not waited for).
    In the modified one they go to the pool of the next frame, and nothing stays.
    """
    options: Dict[int, List] = {}
    for (i, candidate), row_values, row_labels in zip(level, values, labels):
        bonuses = trees[i].extension_bonus(candidate.node, row_labels)
        for value, label, bonus in zip(row_values, row_labels, bonuses):
            if value > -math.inf:
                options.setdefault(i, []).append((candidate.log_prob + value + bonus, candidate, label, value))
    stay = []
    for i, extensions in options.items():
        tree, pool = trees[i], pools[i]
        # Equals by label, then in the order of the beam: neither depends on where a stream was cut.
        extensions.sort(key=lambda option: (-option[0], option[2]))
        limit = -math.inf
        if topology == "regular" and len(pool) >= beam:
            limit = sorted((c.log_prob + tree.bonus[c.node] for c in pool.values()), reverse=True)[beam - 1]
        for rank, candidate, label, value in extensions[:beam]:
            if rank <= limit:
                break
            path = (candidate.path, label, now[i], candidate.best)
            if topology == "modified":
                _add(pool, tree.extend(candidate.node, label), candidate, value, path)
            else:
                node = tree.extend(candidate.node, label)
                stay.append((i, Candidate(node, candidate.log_prob + value, candidate.best + value, path)))
    return stay


def _add(pool: Dict[int, Candidate], node: int, source: Candidate, log_prob: float, path: Path) -> None:
    """Put `source`, one arc further, into the pool; merged with what is there for the same labels."""
    if log_prob == -math.inf:
        return
    new = Candidate(node, source.log_prob + log_prob, source.best + log_prob, path)
    if node in pool:
        pool[node].merge(new)
    else:
        pool[node] = new


def _best(candidates, tree: PrefixTree, beam: int) -> List[Candidate]:
    return sorted(candidates, key=lambda c: -(c.log_prob + tree.bonus[c.node]))[:beam]


def _finish(candidates: List[Candidate], tree: PrefixTree, nbest: int) -> List[Hypothesis]:
    """Complete utterances, best first; equal scores are ordered by the labels."""
    ends = [(candidate, *tree.finish(candidate.node)) for candidate in candidates]
    ends.sort(key=lambda end: -(end[0].log_prob + end[1]))
    hypotheses: List[Hypothesis] = []
    for candidate, bonus, lm_score in ends:
        score = candidate.log_prob + bonus
        if len(hypotheses) >= nbest and score < hypotheses[nbest - 1].score:
            break  # a long stream's hypotheses have many tokens: those that are not asked for are not listed
        tokens, frames, cuts, path = [], [], [], candidate.path
        while path is not None:
            path, token, frame, before = path
            tokens.append(token)
            frames.append(frame)
            cuts.append(before)
        cuts = [0.0, *cuts[:-1][::-1], candidate.best] if cuts else []
        scores = [after - before for before, after in zip(cuts, cuts[1:])]
        hypotheses.append(Hypothesis(tokens[::-1], score, candidate.best, lm_score, frames[::-1], scores))
    return sorted(hypotheses, key=lambda h: (-h.score, h.tokens))[:nbest]
