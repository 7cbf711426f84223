"""Transducer decoding for fairseq-generate and validation: a batch in, fairseq's n-best lists out."""

import contextlib
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from colld_fairseq.decoding.generators import as_fairseq
from colld_fairseq.decoding.prefix_tree import LanguageModel
from colld_fairseq.decoding.search import BeamSearch, GreedySearch, Search
from colld_fairseq.decoding.transducer import Scorer
from colld_fairseq.errors import ColldError


class TransducerGenerator:
    """Transducer search behind the interface of fairseq's ``SequenceGenerator``.

    Models must offer ``encode_for_search(src_tokens, src_lengths) -> (frames [B, T, J], lengths [B])`` and be a
    :class:`~colld_fairseq.decoding.transducer.Network`. Several models are an ensemble: their probabilities are
    averaged at every step, so their frames must lie at the same times.

    Args:
        dictionary: fairseq Dictionary of the targets; ``<s>`` is the blank. ``<pad>`` and ``</s>`` are never emitted.
        beam: 1 without language model and length score is greedy search, all else modified beam search.
        nbest: hypotheses an utterance, at most ``beam``.
        max_symbols: labels at one frame.
        topology: that of the training (`regular` or `modified`).
        blank_penalty: taken from the blank's logit.
        lm, lm_weight, length_score: see :func:`~colld_fairseq.decoding.transducer_beam.transducer_beam_search`.
        symbols_to_strip_from_output: token ids left out of printed text (language tags), read by fairseq-generate.
    """

    def __init__(
        self,
        dictionary: Any,
        beam: int = 1,
        nbest: int = 1,
        max_symbols: int = 10,
        topology: str = "regular",
        blank_penalty: float = 0.0,
        lm: Optional[LanguageModel] = None,
        lm_weight: float = 0.0,
        length_score: float = 0.0,
        symbols_to_strip_from_output: Iterable[int] = (),
    ) -> None:
        self.blank = dictionary.bos()
        self.never_emitted = [dictionary.pad(), dictionary.eos()]
        self.blank_penalty = blank_penalty
        self.search: Search
        if beam == 1 and lm is None and length_score == 0:
            self.search = GreedySearch(max_symbols, topology)
        else:
            self.search = BeamSearch(beam, min(nbest, beam), max_symbols, topology, lm, lm_weight, length_score)
        self.symbols_to_strip_from_output = set(symbols_to_strip_from_output) | {dictionary.eos()}

    def scorer(self, models: Sequence[nn.Module], widths: Sequence[int]) -> Scorer:
        """What the search asks, of models whose frames are so wide."""
        return Scorer(models, widths, self.blank, self.never_emitted, self.blank_penalty)

    @torch.no_grad()
    def generate(
        self,
        models: Sequence[nn.Module],
        sample: Dict[str, Any],
        prefix_tokens: Optional[Tensor] = None,
        **unused: Any,
    ) -> List[List[Dict[str, Any]]]:
        """n-best lists in the order of the sample's utterances; fields as :class:`CtcGenerator`'s.

        prefix_tokens [B, 1]: the tag of each utterance's target language; it is in no hypothesis.
        """
        net_input = sample["net_input"]
        tags = None if prefix_tokens is None else prefix_tokens[:, 0]
        with evaluating(models):
            frames, widths, lengths = encode(models, net_input["src_tokens"], net_input["src_lengths"])
            scorer = self.scorer(models, widths)
            state = self.search.start(scorer, len(frames), tags)
            n_best = self.search.n_best(self.search.proceed(scorer, frames, lengths, state))
        return [[as_fairseq(hypothesis) for hypothesis in hypotheses] for hypotheses in n_best]


def encode(models: Sequence[nn.Module], src_tokens: Tensor, src_lengths: Tensor) -> Tuple[Tensor, List[int], Tensor]:
    """Frames of all models side by side [B, T, sum J], the widths J, and lengths [B]."""
    encoded = [model.encode_for_search(src_tokens, src_lengths) for model in models]
    frames, lengths = zip(*encoded)
    if any(not torch.equal(lengths[0], other) for other in lengths[1:]):
        raise ColldError("models of the ensemble give different numbers of frames; their front-ends must agree")
    joined = frames[0] if len(frames) == 1 else torch.cat(frames, dim=-1)
    return joined, [x.size(-1) for x in frames], lengths[0]


@contextlib.contextmanager
def evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Models in eval mode for a while."""
    modes = [model.training for model in models]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for model, mode in zip(models, modes):
            model.train(mode)
