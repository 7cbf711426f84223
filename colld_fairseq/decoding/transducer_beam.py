"""Modified beam search of transducers: frame by frame, a few labels at a frame, equal labellings merged.

At every frame the labellings of the beam are extended by 0, 1, 2, ... labels, at most `max_symbols`, and then by the
blank that leads to the next frame; alignments of one labelling that meet there are added up (time-synchronous decoding,
Saon et al. 2020, arXiv 2002.03928). In the `modified` topology a label leads to the next frame itself, one join a frame
(icefall's modified_beam_search). Exact where the beam is large and no frame needs more labels.

All labellings of all utterances are joined at once; which are kept is decided utterance by utterance.
"""

import math
from typing import Dict, List, Optional, Tuple

import torch
from torch import Tensor

from colld_fairseq.decoding.prefix_tree import LanguageModel, PrefixTree
from colld_fairseq.decoding.transducer import Scorer, State, TransducerHypothesis, check_frames, check_number
from colld_fairseq.errors import ColldError

# The labels of a path, last first: (rest of the path, frame of the label, ln p of the path before it).
Path = Optional[Tuple["Path", int, float]]


class Candidate:
    """A labelling under way: node of the prefix tree, ln p over the alignments kept, ln p and path of the best one."""

    __slots__ = ("node", "log_prob", "best", "path")

    def __init__(self, node: int, log_prob: float, best: float, path: Path) -> None:
        self.node, self.log_prob, self.best, self.path = node, log_prob, best, path

    def merge(self, other: "Candidate") -> None:
        """Add the alignments of another candidate for the same labelling."""
        if other.best > self.best:
            self.best, self.path = other.best, other.path
        high, low = max(self.log_prob, other.log_prob), min(self.log_prob, other.log_prob)
        self.log_prob = high + math.log1p(math.exp(low - high)) if low > -math.inf else high


class Predictions:
    """Predictor outputs and states of the nodes of all utterances, in tables that grow."""

    def __init__(self, scorer: Scorer, utterances: int, tags: Optional[Tensor]) -> None:
        self.scorer = scorer
        self.symbols, self.state = scorer.start(utterances, tags)
        self.used = utterances
        self.slots: List[Dict[int, int]] = [{0: i} for i in range(utterances)]  # of each utterance: node -> row

    def of(self, trees: List[PrefixTree], rows: List[Tuple[int, Candidate]]) -> Tensor:
        """Predictor outputs [N, J] of (utterance, candidate) rows, computed where they are not known yet.

        The parent of a new node is known: a node is made by extending a candidate that was asked for.
        """
        missing = [(i, candidate.node) for i, candidate in rows if candidate.node not in self.slots[i]]
        if missing:
            device = self.symbols.device
            parents = [self.slots[i][trees[i].parents[node]] for i, node in missing]
            tokens = torch.tensor([trees[i].tokens[node] for i, node in missing], device=device)
            parents = torch.tensor(parents, device=device)
            symbols, state = self.scorer.extend(tokens, tuple(x[parents] for x in self.state))
            for i, node in missing:
                self.slots[i][node] = self.used
                self.used += 1
            self.symbols = _append(self.symbols, symbols, self.used)
            self.state: State = tuple(_append(old, new, self.used) for old, new in zip(self.state, state))
        places = [self.slots[i][candidate.node] for i, candidate in rows]
        return self.symbols[torch.tensor(places, device=self.symbols.device)]


def _append(table: Tensor, rows: Tensor, used: int) -> Tensor:
    """`rows` written before row `used` of a table that doubles when it is full."""
    if used > len(table):
        table = torch.cat((table, table.new_zeros(max(used - len(table), len(table)), *table.shape[1:])))
    table[used - len(rows) : used] = rows
    return table


def transducer_beam_search(
    scorer: Scorer,
    frames: Tensor,
    lengths: Tensor,
    tags: Optional[Tensor] = None,
    beam: int = 4,
    nbest: int = 1,
    max_symbols: int = 3,
    topology: str = "regular",
    lm: Optional[LanguageModel] = None,
    lm_weight: float = 0.0,
    length_score: float = 0.0,
    beam_size_token: int = 40,
) -> List[List[TransducerHypothesis]]:
    """The most probable labellings, each summed over the alignments that the beam kept.

    Args:
        frames: [B, T, J] projected encoder output; lengths int64 [B]; tags int64 [B] of the target languages.
        beam: labellings kept after every frame.
        nbest: hypotheses returned an utterance, at most ``beam``.
        max_symbols: labels at one frame (regular topology).
        lm, lm_weight, length_score: as for :func:`~colld_fairseq.decoding.ctc.prefix_beam_search`.
        beam_size_token: most probable labels considered for each labelling where a language model may reorder them.

    Returns:
        For each utterance its hypotheses, best first.
    """
    if beam < 1 or nbest < 1 or beam_size_token < 1:
        raise ColldError(f"beam ({beam}), nbest ({nbest}) and beam_size_token ({beam_size_token}) must be at least 1")
    check_frames(frames, lengths, max_symbols)
    counts = lengths.tolist()
    trees = [PrefixTree(lm, lm_weight, length_score) for _ in counts]
    beams = [[Candidate(0, 0.0, 0.0, None)] for _ in counts]
    predictions = Predictions(scorer, len(counts), tags)
    wide = beam_size_token if lm is not None else beam
    for t in range(max(counts, default=0)):
        level = [(i, candidate) for i, count in enumerate(counts) if t < count for candidate in beams[i]]
        pools: Dict[int, Dict[int, Candidate]] = {i: {} for i, _ in level}  # what reaches the next frame
        for extra in range(max_symbols + 1 if topology == "regular" else 1):
            where = torch.tensor([i for i, _ in level], device=frames.device)
            log_probs = scorer.log_probs(frames[where, t], predictions.of(trees, level))
            for (i, candidate), blank in zip(level, log_probs[:, scorer.blank].tolist()):
                check_number(blank, i)
                _add(pools[i], candidate.node, candidate, blank, candidate.path)
            if extra == max_symbols and topology == "regular":
                break
            if lm is not None:
                lm.prepare([trees[i].lm_states[candidate.node] for i, candidate in level])
            log_probs[:, scorer.blank] = -torch.inf
            values, labels = log_probs.topk(min(wide, log_probs.size(1)))
            level = _extend(level, values.tolist(), labels.tolist(), trees, pools, beam, t, topology)
            if not level:
                break
        for i, pool in pools.items():
            if not pool:
                raise ColldError(f"utterance {i} of the batch: no path has a probability above zero at frame {t}")
            beams[i] = _best(pool.values(), trees[i], beam)
    if lm is not None:
        lm.prepare([tree.lm_states[c.node] for candidates, tree in zip(beams, trees) for c in candidates])
    return [_finish(candidates, tree, nbest) for candidates, tree in zip(beams, trees)]


def _extend(level, values, labels, trees, pools, beam: int, t: int, topology: str) -> List[Tuple[int, Candidate]]:
    """The best extensions by one label, at most ``beam`` an utterance.

    In the regular topology they stay at the frame: those below what already fills the beam of the next frame are left
    out, for they can only lose. In the modified one they go to the pool of the next frame, and nothing stays.
    """
    options: Dict[int, List] = {}
    for (i, candidate), row_values, row_labels in zip(level, values, labels):
        bonuses = trees[i].extension_bonus(candidate.node, row_labels)
        for value, label, bonus in zip(row_values, row_labels, bonuses):
            if value > -math.inf:
                options.setdefault(i, []).append((candidate.log_prob + value + bonus, candidate, label, value))
    stay = []
    for i, found in options.items():
        tree, pool = trees[i], pools[i]
        found.sort(key=lambda option: (-option[0], option[1].node, option[2]))
        limit = -math.inf
        if topology == "regular" and len(pool) >= beam:
            limit = sorted((c.log_prob + tree.bonus[c.node] for c in pool.values()), reverse=True)[beam - 1]
        for rank, candidate, label, value in found[:beam]:
            if rank <= limit:
                break
            path = (candidate.path, t, candidate.best)
            if topology == "modified":
                _add(pool, tree.extend(candidate.node, label), candidate, value, path)
            else:
                node = tree.extend(candidate.node, label)
                stay.append((i, Candidate(node, candidate.log_prob + value, candidate.best + value, path)))
    return stay


def _add(pool: Dict[int, Candidate], node: int, source: Candidate, log_prob: float, path: Path) -> None:
    """Put `source`, one arc further, into the pool; merged with what is there for the same labelling."""
    if log_prob == -math.inf:
        return
    new = Candidate(node, source.log_prob + log_prob, source.best + log_prob, path)
    if node in pool:
        pool[node].merge(new)
    else:
        pool[node] = new


def _best(candidates, tree: PrefixTree, beam: int) -> List[Candidate]:
    return sorted(candidates, key=lambda c: (-(c.log_prob + tree.bonus[c.node]), c.node))[:beam]


def _finish(candidates: List[Candidate], tree: PrefixTree, nbest: int) -> List[TransducerHypothesis]:
    """Complete utterances, best first; equal scores are ordered by the labels."""
    hypotheses = []
    for candidate in candidates:
        bonus, lm_score = tree.finish(candidate.node)
        starts, cuts, path = [], [], candidate.path
        while path is not None:
            path, frame, before = path
            starts.append(frame)
            cuts.append(before)
        cuts = [0.0, *cuts[:-1][::-1], candidate.best] if cuts else []
        hypotheses.append(
            TransducerHypothesis(
                tree.labels(candidate.node),
                candidate.log_prob + bonus,
                candidate.log_prob,
                lm_score,
                starts[::-1],
                [after - before for before, after in zip(cuts, cuts[1:])],
            )
        )
    return sorted(hypotheses, key=lambda h: (-h.score, h.tokens))[:nbest]
