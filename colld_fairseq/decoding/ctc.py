"""CTC decoding: best path, prefix beam search with optional language model, and alignment of a hypothesis; of whole
utterances, or of streams piece by piece.

Shapes: B utterances, T frames, V tokens, W prefixes in the beam, K tokens considered per frame, U labels.
Everything is computed one utterance at a time in float64 on its valid frames only, so results depend neither
on padding nor on what else is in the batch. Source: Graves et al. 2006 (CTC); Hannun et al. 2014 (prefix
search).
"""

import math
from dataclasses import dataclass
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from colld_fairseq.decoding.checks import check_number, check_shapes
from colld_fairseq.decoding.hypothesis import Hypothesis, Models, NBest
from colld_fairseq.decoding.prefix_tree import LanguageModel, PrefixTree
from colld_fairseq.decoding.search import Search
from colld_fairseq.errors import ColldError

NEG_INF = -np.inf


def _cut_at(path_scores: np.ndarray, starts: Sequence[int]) -> List[float]:
    """Sums of path_scores [T] over [0, starts[1]), [starts[1], starts[2]), ...; empty without starts."""
    if len(starts) == 0:
        return []
    return np.add.reduceat(path_scores, [0, *starts[1:]]).tolist()


def greedy_ctc(log_probs: Tensor, lengths: Tensor, blank: int = 0) -> List[Hypothesis]:
    """Best-path decoding: most probable token of every frame, repeats merged, blanks dropped. log_probs: [B, T, V],
    natural; lengths: int64 [B], valid frames. One hypothesis per utterance; `score` is ln p of the best path."""
    check_shapes(log_probs, lengths, "log_probs [B, T, V]")
    return [best_path(path, blank) for path in most_probable(log_probs, lengths)]


class Path(NamedTuple):
    """The most probable token of every frame, int64 [T], and its ln p, float64 [T]."""

    tokens: np.ndarray
    scores: np.ndarray


def most_probable(log_probs: Tensor, lengths: Tensor) -> List[Path]:
    """The path of each utterance of log_probs [B, T, V]."""
    # The maximum is taken where the tensor is: on a GPU only [B, T] numbers have to be copied.
    best, tokens = log_probs.detach().max(dim=-1)
    all_scores, all_tokens = best.to("cpu", torch.float64).numpy(), tokens.cpu().numpy()
    paths = [Path(all_tokens[i, :length], all_scores[i, :length]) for i, length in enumerate(lengths.tolist())]
    for i, path in enumerate(paths):
        check_number(path.scores.sum(), i)
    return paths


def best_path(path: Path, blank: int) -> Hypothesis:
    """The path without repeats and blanks."""
    is_start = path.tokens != blank
    is_start[1:] &= path.tokens[1:] != path.tokens[:-1]
    starts = np.flatnonzero(is_start)
    score = float(path.scores.sum())
    return Hypothesis(path.tokens[starts].tolist(), score, score, 0.0, starts.tolist(), _cut_at(path.scores, starts))


class Alignment(NamedTuple):
    """Of labels with frames: the first of each, that behind its last one; ln p of the path at every frame [T]."""

    starts: List[int]
    ends: List[int]
    scores: np.ndarray


def align_labels(log_probs: np.ndarray, tokens: Sequence[int], blank: int = 0) -> Alignment:
    """The most probable CTC path of labels (Viterbi over the 2U+1 states blank, token, blank, ...).

    Args:
        log_probs: [T, V].

    Raises:
        ColldError: the labels need more frames than there are, or one of them has no probability at all.
    """
    num_frames, num_states = len(log_probs), 2 * len(tokens) + 1
    needed = len(tokens) + sum(a == b for a, b in zip(tokens, tokens[1:]))
    if num_frames < needed:
        raise ColldError(f"{len(tokens)} tokens need at least {needed} frames, there are {num_frames}")
    if num_frames == 0:
        return Alignment([], [], np.zeros(0))
    labels = np.full(num_states, blank, dtype=np.int64)
    labels[1::2] = tokens
    may_skip = np.zeros(num_states, dtype=bool)
    may_skip[3::2] = labels[3::2] != labels[1:-2:2]
    emissions = log_probs[:, labels]  # [T, S]
    best = np.full(num_states, NEG_INF)
    best[:2] = emissions[0, :2]
    steps = np.zeros((num_frames, num_states), dtype=np.int8)  # how many states back the best predecessor is
    columns = np.arange(num_states)
    for t in range(1, num_frames):
        arrivals = np.full((3, num_states), NEG_INF)
        arrivals[0] = best
        arrivals[1, 1:] = best[:-1]
        arrivals[2, 2:] = np.where(may_skip[2:], best[:-2], NEG_INF)
        steps[t] = arrivals.argmax(axis=0)
        best = arrivals[steps[t], columns] + emissions[t]
    state = num_states - 1
    if num_states > 1 and best[-2] > best[-1]:
        state -= 1
    if best[state] == NEG_INF:
        raise ColldError("these tokens have no path: is one of them of another language than src_lang says?")
    starts, ends = [0] * len(tokens), [0] * len(tokens)
    path_scores = np.empty(num_frames)
    for t in range(num_frames - 1, -1, -1):
        path_scores[t] = emissions[t, state]
        if state % 2:
            starts[state // 2] = t
            ends[state // 2] = max(ends[state // 2], t + 1)
        state -= int(steps[t, state])
    return Alignment(starts, ends, path_scores)


class Beam(NamedTuple):
    """The prefixes that are kept after some frames, unordered.

    nodes, lasts: int64 [W], of the tree, and the last token of each prefix (-1: of the empty one).
    ends_blank, ends_token: float64 [W], ln p of the paths of each prefix that end in a blank, and in its last token.
    """

    nodes: np.ndarray
    lasts: np.ndarray
    ends_blank: np.ndarray
    ends_token: np.ndarray

    @classmethod
    def start(cls) -> "Beam":
        """Nothing but the empty prefix."""
        return cls(np.zeros(1, dtype=np.int64), np.full(1, -1, dtype=np.int64), np.zeros(1), np.full(1, NEG_INF))


def _search(frames: np.ndarray, blank: int, width: int, num_tokens: int, tree: PrefixTree, beam: Beam) -> Beam:
    """What is kept after more frames [T, V] of one utterance; the tree grows."""
    fused = tree.lm is not None or tree.length_bonus != 0.0
    nodes, lasts, ends_blank, ends_token = beam
    for frame in frames:
        if num_tokens < len(frame):
            # By value rather than by rank: ties are then all considered, on every machine alike.
            considered = np.flatnonzero(frame >= np.partition(frame, -num_tokens)[-num_tokens])
        else:
            considered = np.arange(len(frame))
        considered = considered[considered != blank]
        total = np.logaddexp(ends_blank, ends_token)
        stay_blank = total + frame[blank]
        stay_token = np.where(lasts >= 0, ends_token + frame[lasts], NEG_INF)
        grown = np.where(considered[None, :] == lasts[:, None], ends_blank[:, None], total[:, None]) + frame[considered]

        # A prefix whose parent is in the beam is also reached from there: its mass is added here, and the
        # same extension of the parent is struck out, so that every prefix appears once.
        parents = np.array([tree.parents[node] for node in nodes.tolist()])
        child_slots, parent_slots = np.nonzero(parents[:, None] == nodes[None, :])
        if len(child_slots):
            tokens = lasts[child_slots]
            mass = (
                np.where(lasts[parent_slots] == tokens, ends_blank[parent_slots], total[parent_slots]) + frame[tokens]
            )
            stay_token[child_slots] = np.logaddexp(stay_token[child_slots], mass)
            columns = np.searchsorted(considered, tokens)
            struck = columns < len(considered)
            struck[struck] = considered[columns[struck]] == tokens[struck]
            grown[parent_slots[struck], columns[struck]] = NEG_INF

        stay_total = np.logaddexp(stay_blank, stay_token)
        if fused:
            node_list, token_list = nodes.tolist(), considered.tolist()
            tree.prepare(node_list)
            stay_rank = stay_total + np.array([tree.bonus[node] for node in node_list])
            grown_rank = grown + np.array([tree.extension_bonus(node, token_list) for node in node_list])
        else:
            stay_rank, grown_rank = stay_total, grown
        ranks = np.concatenate([stay_rank, grown_rank.ravel()])
        kept = np.argsort(-ranks, kind="stable")[:width]
        kept = kept[ranks[kept] > NEG_INF]

        stays = kept[kept < len(nodes)]
        slots, columns = np.divmod(kept[kept >= len(nodes)] - len(nodes), max(len(considered), 1))
        new_tokens = considered[columns]
        new_nodes = [tree.extend(node, token) for node, token in zip(nodes[slots].tolist(), new_tokens.tolist())]
        nodes = np.concatenate([nodes[stays], np.array(new_nodes, dtype=np.int64)])
        lasts = np.concatenate([lasts[stays], new_tokens])
        ends_blank = np.concatenate([stay_blank[stays], np.full(len(new_nodes), NEG_INF)])
        ends_token = np.concatenate([stay_token[stays], grown[slots, columns]])
        if len(nodes) == 0:
            raise ColldError("no path has a probability above zero: every token of some frame is -inf")
    return Beam(nodes, lasts, ends_blank, ends_token)


def _ranked(beam: Beam, tree: PrefixTree, frames: np.ndarray, blank: int, nbest: int) -> List[Hypothesis]:
    """The best prefixes as complete utterances of these frames [T, V]."""
    ranked = []
    nodes, totals = beam.nodes.tolist(), np.logaddexp(beam.ends_blank, beam.ends_token).tolist()
    tree.prepare(nodes)
    for node, ctc_score in zip(nodes, totals):
        bonus, lm_score = tree.finish(node)
        ranked.append((ctc_score + bonus, tree.labels(node), lm_score))
    # Equal scores are ordered by the labels: the result then does not depend on the order of the search.
    ranked.sort(key=lambda item: (-item[0], item[1]))
    hypotheses = []
    for score, tokens, lm_score in ranked[:nbest]:
        starts, _, path_scores = align_labels(frames, tokens, blank)
        token_scores = _cut_at(path_scores, starts)
        hypotheses.append(Hypothesis(tokens, score, float(path_scores.sum()), lm_score, starts, token_scores))
    return hypotheses


def prefix_beam_search(
    log_probs: Tensor,
    lengths: Tensor,
    blank: int = 0,
    beam: int = 10,
    nbest: int = 1,
    beam_size_token: int = 40,
    lm: Optional[LanguageModel] = None,
    lm_weight: float = 0.0,
    length_bonus: float = 0.0,
) -> NBest:
    """The most probable hypotheses, each summed over its alignments.

    Exact when `beam` and `beam_size_token` are large.

    Args:
        log_probs: [B, T, V], natural log-probabilities.
        lengths: int64 [B], valid frames.
        beam: prefixes kept after every frame.
        nbest: hypotheses returned per utterance, at most `beam`.
        beam_size_token: most probable tokens considered per frame.
        lm: see :class:`LanguageModel`; its units are words or tokens.
        lm_weight: weight of its ln p.
        length_bonus: added for every unit (every token without a language model); makes up for the shortening
            that a language model causes.

    Returns:
        For each utterance its hypotheses, best first.
    """
    check_shapes(log_probs, lengths, "log_probs [B, T, V]")
    search = PrefixBeamSearch(blank, beam, nbest, beam_size_token, lm, lm_weight, length_bonus)
    return search.n_best(search.proceed(None, log_probs, lengths, search.start(None, len(lengths))))


@dataclass
class Pieces:
    """A search of N utterances after some of their frames; one state each."""

    states: List[Any]

    @classmethod
    def join(cls, several: Sequence["Pieces"]) -> "Pieces":
        """Utterances of several searches as one."""
        return cls([state for one in several for state in one.states])

    def split(self) -> List["Pieces"]:
        """Each utterance by itself."""
        return [Pieces([state]) for state in self.states]


@dataclass(frozen=True)
class BestPathSearch(Search):
    """Best-path decoding of log_probs [N, T, V] piece by piece: :func:`greedy_ctc`. Needs no scorer."""

    blank: int = 0

    def start(self, scorer: Any, rows: int, tags: Optional[Tensor] = None) -> Pieces:
        return Pieces([Path(np.zeros(0, dtype=np.int64), np.zeros(0)) for _ in range(rows)])

    def proceed(self, scorer: Any, frames: Tensor, lengths: Tensor, state: Pieces) -> Pieces:
        more = most_probable(frames, lengths)
        return Pieces([Path(*map(np.concatenate, zip(before, new))) for before, new in zip(state.states, more)])

    def n_best(self, state: Pieces) -> NBest:
        return [[best_path(path, self.blank)] for path in state.states]


class Prefixes(NamedTuple):
    """Prefix beam search of one utterance: what is kept, and all its frames, pieces of [T, V], for the alignment."""

    tree: PrefixTree
    beam: Beam
    frames: Tuple[np.ndarray, ...]


@dataclass(frozen=True)
class PrefixBeamSearch(Search):
    """Prefix beam search of log_probs [N, T, V] piece by piece; for the fields see :func:`prefix_beam_search`. Needs no
    scorer. Hypotheses are aligned with all frames of their utterance whenever they are asked for."""

    blank: int = 0
    beam: int = 10
    nbest: int = 1
    beam_size_token: int = 40
    lm: Optional[LanguageModel] = None
    lm_weight: float = 0.0
    length_bonus: float = 0.0

    def __post_init__(self) -> None:
        if self.beam < 1 or self.nbest < 1 or self.beam_size_token < 1:
            raise ColldError(
                f"beam ({self.beam}), nbest ({self.nbest}) and beam_size_token ({self.beam_size_token}) must be at"
                " least 1"
            )

    def start(self, scorer: Any, rows: int, tags: Optional[Tensor] = None) -> Pieces:
        return Pieces(
            [Prefixes(PrefixTree(self.lm, self.lm_weight, self.length_bonus), Beam.start(), ()) for _ in range(rows)]
        )

    def proceed(self, scorer: Any, frames: Tensor, lengths: Tensor, state: Pieces) -> Pieces:
        after = []
        for i, (before, length) in enumerate(zip(state.states, lengths.tolist())):
            piece = frames[i, :length].detach().to("cpu", torch.float64).numpy()
            check_number(piece.sum(), i)
            beam = _search(piece, self.blank, self.beam, self.beam_size_token, before.tree, before.beam)
            after.append(Prefixes(before.tree, beam, (*before.frames, piece)))
        return Pieces(after)

    def n_best(self, state: Pieces) -> NBest:
        return [
            _ranked(one.beam, one.tree, np.concatenate(one.frames or [np.zeros((0, 1))]), self.blank, self.nbest)
            for one in state.states
        ]


@dataclass
class CtcDecoder:
    """CTC decoding by a model, or by several whose probabilities are averaged frame by frame.

    Models must offer `get_ctc_log_probs(source, lengths) -> (log_probs [B, T, V], lengths [B])`.

    Args:
        blank: index of the blank.
        never_emitted: tokens that no hypothesis may hold.
        beam: 1 without language model and length bonus is best-path decoding, all else prefix beam search.
        nbest: hypotheses per utterance, at most `beam`.
        lm, lm_weight, length_bonus, beam_size_token: see :func:`prefix_beam_search`.
    """

    blank: int
    never_emitted: Sequence[int] = ()
    beam: int = 1
    nbest: int = 1
    lm: Optional[LanguageModel] = None
    lm_weight: float = 0.0
    length_bonus: float = 0.0
    beam_size_token: int = 40

    def __post_init__(self) -> None:
        self.never_emitted = [token for token in self.never_emitted if token != self.blank]
        self.nbest = min(self.nbest, self.beam)

    @torch.no_grad()
    def decode(self, models: Models, source: Tensor, lengths: Tensor, tags: Optional[Tensor] = None) -> NBest:
        """n-best lists of utterances, best first: source [B, ...] and lengths [B] as the models take them. Models are
        in eval mode. tags have no meaning for CTC."""
        log_probs, lengths = self._log_probs(models, source, lengths)
        check_shapes(log_probs, lengths, "log_probs [B, T, V]")
        return self.search(None, self.emittable(log_probs), lengths)

    @property
    def search(self) -> Search:
        """The search that the settings ask for, of whole utterances or of streams."""
        if self.beam == 1 and self.lm is None and self.length_bonus == 0:
            return BestPathSearch(self.blank)
        fusion = (self.lm, self.lm_weight, self.length_bonus)
        return PrefixBeamSearch(self.blank, self.beam, self.nbest, self.beam_size_token, *fusion)

    def emittable(self, log_probs: Tensor) -> Tensor:
        """log_probs [..., V], changed in place: what may be in no hypothesis has no probability."""
        log_probs[..., self.never_emitted] = -math.inf
        return log_probs

    def _log_probs(self, models: Sequence[nn.Module], source: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Logs of the models' averaged probabilities in a fresh float32 tensor [B, T, V], and lengths [B]."""
        outputs = [model.get_ctc_log_probs(source, lengths) for model in models]
        lengths = outputs[0][1].cpu()
        if any(not torch.equal(lengths, other.cpu()) for _, other in outputs[1:]):
            raise ColldError("models of the ensemble give different numbers of frames; their front-ends must agree")
        if len(outputs) == 1:
            return outputs[0][0].to(torch.float32, copy=True), lengths
        stacked = torch.stack([log_probs.float() for log_probs, _ in outputs])
        return torch.logsumexp(stacked, dim=0) - math.log(len(outputs)), lengths
