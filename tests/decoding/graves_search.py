"""Beam search of transducers as Graves 2012 (arXiv 1211.3711, algorithm 1) wrote it: the reference for small inputs.

One utterance at a time and one join per hypothesis, without any batching: what the fast searches are compared with.
"""

from typing import Dict, List, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from colld_fairseq.decoding.hypothesis import Hypothesis
from colld_fairseq.decoding.transducer import Scorer, check_frames

Labels = Tuple[int, ...]


class _Utterance:
    """ln p of the next symbol after any hypothesis, predictor outputs kept."""

    def __init__(self, scorer: Scorer, frames: Tensor, tags: Optional[Tensor]) -> None:
        self.scorer, self.frames = scorer, frames
        self.predicted = {(): scorer.start(1, tags)}

    def log_probs(self, t: int, labels: Labels) -> np.ndarray:
        """float64 [V]"""
        symbols, _ = self.predict(labels)
        return self.scorer.log_probs(self.frames[t], symbols[0]).double().cpu().numpy()

    def predict(self, labels: Labels):
        if labels not in self.predicted:
            _, state = self.predict(labels[:-1])
            self.predicted[labels] = self.scorer.extend(torch.tensor(labels[-1:], device=self.frames.device), state)
        return self.predicted[labels]


def graves_beam_search(
    scorer: Scorer,
    frames: Tensor,
    lengths: Tensor,
    tags: Optional[Tensor] = None,
    beam: int = 4,
    nbest: int = 1,
    max_symbols: int = 10,
) -> List[List[Hypothesis]]:
    """The most probable hypotheses (regular topology); arguments as for `BeamSearch`. They carry no frames, and their
    log_prob is of all alignments.

    One thing is put right: a hypothesis that was reached at an earlier frame is given the probability of reaching it
    from its prefixes at this frame once, by the sum over prefixes; algorithm 1 would replace that by one of them.
    """
    check_frames(frames, lengths, max_symbols)
    results = []
    for i, length in enumerate(lengths.tolist()):
        utterance = _Utterance(scorer, frames[i], None if tags is None else tags[i : i + 1])
        kept: Dict[Labels, float] = {(): 0.0}
        for t in range(length):
            kept = _step(utterance, t, kept, beam, max_symbols)
        ranked = sorted(kept.items(), key=lambda item: (-item[1], item[0]))[:nbest]
        results.append([Hypothesis(list(labels), log_prob, log_prob) for labels, log_prob in ranked])
    return results


def _step(utterance: _Utterance, t: int, kept: Dict[Labels, float], beam: int, max_symbols: int) -> Dict[Labels, float]:
    """One frame: hypotheses and their ln p before it -> after it."""
    blank = utterance.scorer.blank
    waiting = dict(kept)  # A of the algorithm: hypotheses that have not left the frame
    for labels in kept:
        for size in range(max(len(labels) - max_symbols, 0), len(labels)):
            if labels[:size] in kept:
                log_prob = kept[labels[:size]]
                for u in range(size, len(labels)):
                    log_prob += utterance.log_probs(t, labels[:u])[labels[u]]
                waiting[labels] = np.logaddexp(waiting[labels], log_prob)
    emitted = dict.fromkeys(kept, 0)  # labels of this frame
    left: Dict[Labels, float] = {}  # B: they have taken the blank
    while waiting:
        labels = min(waiting, key=lambda key: (-waiting[key], key))
        if sum(log_prob > waiting[labels] for log_prob in left.values()) >= beam:
            break
        log_prob = waiting.pop(labels)
        scores = log_prob + utterance.log_probs(t, labels)
        left[labels] = float(scores[blank])
        if emitted[labels] < max_symbols:
            for token in np.flatnonzero(np.isfinite(scores)).tolist():
                longer = (*labels, token)
                if token != blank and longer not in emitted:
                    waiting[longer], emitted[longer] = float(scores[token]), emitted[labels] + 1
    return dict(sorted(left.items(), key=lambda item: (-item[1], item[0]))[:beam])
