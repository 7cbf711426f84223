"""fairseq's door: our decoders as generators of fairseq-generate and fairseq-interactive."""

import contextlib
from typing import Any, Dict, Iterable, Iterator, List, Optional, Protocol, Sequence

import torch
from torch import Tensor, nn

from colld_fairseq.decoding.hypothesis import Hypothesis, Models, NBest


class Decoder(Protocol):
    """A way from models and a batch to hypotheses: CTC, transducer or attention."""

    def decode(self, models: Models, source: Tensor, lengths: Tensor, tags: Optional[Tensor] = None) -> NBest:
        """n-best lists of utterances, best first; models are in eval mode, tags int64 [B] of the target languages."""


class FairseqGenerator:
    """A decoder behind the interface of fairseq's `SequenceGenerator`.

    Args:
        eos: the end of sentence that fairseq's hypotheses end with.
        symbols_to_strip_from_output: token ids left out of printed text (language tags), read by fairseq-generate.
    """

    def __init__(self, decoder: Decoder, eos: int, symbols_to_strip_from_output: Iterable[int] = ()) -> None:
        self.decoder, self.eos = decoder, eos
        self.symbols_to_strip_from_output = {*symbols_to_strip_from_output, eos}

    def generate(
        self, models: Sequence[nn.Module], sample: Dict[str, Any], prefix_tokens: Optional[Tensor] = None, **unused: Any
    ) -> List[List[Dict[str, Any]]]:
        """n-best lists in the order of the sample's utterances, of :func:`as_fairseq`'s dictionaries. prefix_tokens [B,
        1]: the tag of each target language, which is in no hypothesis. Models are in eval mode meanwhile; keyword
        arguments of other generators (constraints) have no meaning here."""
        source, lengths = sample["net_input"]["src_tokens"], sample["net_input"]["src_lengths"]
        tags = None if prefix_tokens is None else prefix_tokens[:, 0]
        with evaluating(models):
            n_best = self.decoder.decode(models, source, lengths, tags)
        return [[as_fairseq(hypothesis, self.eos) for hypothesis in hypotheses] for hypotheses in n_best]


def as_fairseq(hypothesis: Hypothesis, eos: int) -> Dict[str, Any]:
    """`tokens` (int64 [U + 1], with the end of sentence: fairseq's default scorer crashes on no tokens at all), `score`
    (float), `positional_scores` (float32 [U]), `frames` (int64 [U]), `attention` None and `alignment` empty."""
    # New tensors every time: fairseq-generate divides positional_scores by ln 2 in place.
    return {
        "tokens": torch.tensor([*hypothesis.tokens, eos], dtype=torch.int64),
        "score": hypothesis.score,
        "attention": None,
        "alignment": torch.empty(0),
        "positional_scores": torch.tensor(hypothesis.token_scores, dtype=torch.float32),
        "frames": torch.tensor(hypothesis.frames, dtype=torch.int64),
    }


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
