"""Generators for fairseq-generate and validation: a batch in, fairseq's n-best lists out."""

import math
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from colld_fairseq.decoding.ctc import CtcHypothesis, LanguageModel, greedy_ctc, prefix_beam_search
from colld_fairseq.decoding.transducer import TransducerHypothesis
from colld_fairseq.errors import ColldError


class CtcGenerator:
    """CTC decoding behind the interface of fairseq's ``SequenceGenerator``.

    Models must offer ``get_ctc_log_probs(src_tokens, src_lengths) -> (log_probs [B, T, V], lengths [B])``.
    Several models are an ensemble: their probabilities are averaged frame by frame.

    Args:
        dictionary: fairseq Dictionary of the targets; its ``<s>`` is the blank unless ``blank`` is given
            (fairseq's convention for CTC). ``<pad>`` and ``</s>`` are never emitted.
        beam: 1 without language model and length score is best-path decoding, all else prefix beam search.
        nbest: hypotheses an utterance, at most ``beam``.
        lm, lm_weight, length_score, beam_size_token: see
            :func:`~colld_fairseq.decoding.ctc.prefix_beam_search`.
        symbols_to_strip_from_output: token ids left out of printed text (language tags), read by
            fairseq-generate.
    """

    def __init__(
        self,
        dictionary: Any,
        blank: Optional[int] = None,
        beam: int = 1,
        nbest: int = 1,
        lm: Optional[LanguageModel] = None,
        lm_weight: float = 0.0,
        length_score: float = 0.0,
        beam_size_token: int = 40,
        symbols_to_strip_from_output: Iterable[int] = (),
    ):
        self.dictionary = dictionary
        self.blank = dictionary.bos() if blank is None else blank
        self.beam, self.nbest = beam, min(nbest, beam)
        self.lm, self.lm_weight, self.length_score = lm, lm_weight, length_score
        self.beam_size_token = beam_size_token
        self.never_emitted = [i for i in (dictionary.pad(), dictionary.eos()) if i != self.blank]
        self.symbols_to_strip_from_output = set(symbols_to_strip_from_output) | {dictionary.eos()}

    @torch.no_grad()
    def generate(
        self, models: Sequence[nn.Module], sample: Dict[str, Any], **unused: Any
    ) -> List[List[Dict[str, Any]]]:
        """n-best lists in the order of the sample's utterances.

        Each hypothesis has ``tokens`` (int64 [U], no end-of-sentence), ``score`` (float, ln),
        ``positional_scores`` (float32 [U], ln; their sum is the score of the best path), ``frames`` (int64
        [U], first frame of each token), ``attention`` None and ``alignment`` empty. Keyword arguments of
        other generators (prefix_tokens, constraints) have no meaning for CTC and are ignored.
        """
        net_input = sample["net_input"]
        log_probs, lengths = self._log_probs(models, net_input["src_tokens"], net_input["src_lengths"])
        log_probs[..., self.never_emitted] = -math.inf
        if self.beam == 1 and self.lm is None and self.length_score == 0:
            n_best = [[hypothesis] for hypothesis in greedy_ctc(log_probs, lengths, self.blank)]
        else:
            n_best = prefix_beam_search(
                log_probs,
                lengths,
                self.blank,
                self.beam,
                self.nbest,
                self.beam_size_token,
                self.lm,
                self.lm_weight,
                self.length_score,
            )
        return [[as_fairseq(hypothesis) for hypothesis in hypotheses] for hypotheses in n_best]

    def _log_probs(self, models: Sequence[nn.Module], src_tokens: Tensor, src_lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Logs of the models' averaged probabilities in a fresh float32 tensor [B, T, V], and lengths [B]."""
        outputs = []
        for model in models:
            was_training = model.training
            model.eval()
            try:
                outputs.append(model.get_ctc_log_probs(src_tokens, src_lengths))
            finally:
                model.train(was_training)
        lengths = outputs[0][1].cpu()
        if any(not torch.equal(lengths, other.cpu()) for _, other in outputs[1:]):
            raise ColldError("models of the ensemble give different numbers of frames; their front-ends must agree")
        if len(outputs) == 1:
            return outputs[0][0].to(torch.float32, copy=True), lengths
        stacked = torch.stack([log_probs.float() for log_probs, _ in outputs])
        return torch.logsumexp(stacked, dim=0) - math.log(len(outputs)), lengths


def as_fairseq(hypothesis: Union[CtcHypothesis, TransducerHypothesis]) -> Dict[str, Any]:
    """A hypothesis as fairseq-generate takes it, without the end of sentence."""
    # New tensors every time: fairseq-generate divides positional_scores by ln 2 in place.
    return {
        "tokens": torch.tensor(hypothesis.tokens, dtype=torch.int64),
        "score": hypothesis.score,
        "attention": None,
        "alignment": torch.empty(0),
        "positional_scores": torch.tensor(hypothesis.token_scores, dtype=torch.float32),
        "frames": torch.tensor(hypothesis.frames, dtype=torch.int64),
    }
