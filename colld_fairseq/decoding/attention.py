"""Beam search of attention decoders by fairseq's SequenceGenerator, made independent of the batch."""

from typing import Any, Dict, Iterable, List, Optional, Sequence

import torch
from fairseq.ngram_repeat_block import NGramRepeatBlock
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor, nn

from colld_fairseq.decoding.hypothesis import Hypothesis


class AttentionGenerator(SequenceGenerator):
    """fairseq's generator with `max_len_a * length + max_len_b` tokens at most for each utterance of its own length.

    fairseq takes the padded length of the batch there: an utterance would get another limit, and perhaps another
    hypothesis, beside a longer one.

    What a pretrained decoder is given first (`prefix_tokens`) goes to the model with the utterance: fairseq would take
    its probability into the score.

    Args:
        never_written: tokens that no hypothesis holds.
        never_first: tokens that none begins with.
    """

    def __init__(
        self, *args: Any, never_written: Iterable[int] = (), never_first: Iterable[int] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.repeat_ngram_blocker is not None:
            self.repeat_ngram_blocker = NGramBlocker(self.repeat_ngram_blocker.no_repeat_ngram_size)
        self.search = OwnLimits(self.search, sorted(never_written), sorted(never_first))

    def generate(
        self,
        models: Sequence[nn.Module],
        sample: Dict[str, Any],
        prefix_tokens: Optional[Tensor] = None,
        **kwargs: Any,
    ) -> List[List[Dict]]:
        limits = (self.max_len_a * sample["net_input"]["src_lengths"] + self.max_len_b).long().clamp(min=1)
        self.search.limits = dict(enumerate(limits.tolist()))
        # Rows of the batch, not of the manifest: fairseq's diverse beam search keeps a table of one batch.
        sample = {**sample, "id": torch.arange(len(limits), device=limits.device)}
        if all(getattr(model.decoder, "prefix_size", 0) for model in models):
            sample = {**sample, "net_input": {**sample["net_input"], "prefix_tokens": prefix_tokens}}
            prefix_tokens = None
        return super().generate(models, sample, prefix_tokens=prefix_tokens, **kwargs)


class AttentionDecoder:
    """What fairseq's generator finds, as hypotheses; at most `nbest` per utterance."""

    def __init__(self, generator: AttentionGenerator, nbest: int = 1) -> None:
        self.generator, self.nbest = generator, nbest

    @torch.no_grad()
    def decode(
        self, models: Sequence[nn.Module], source: Tensor, lengths: Tensor, tags: Optional[Tensor] = None
    ) -> List[List[Hypothesis]]:
        """n-best lists of utterances, best first: source [B, ...] and lengths [B] as the models take them; tags int64
        [B]: of the target languages, the first token of every hypothesis of the generator; or [B, P]: what a pretrained
        decoder is given first."""
        sample = {"net_input": {"src_tokens": source, "src_lengths": lengths}}
        prefix = None if tags is None else tags.reshape(len(tags), -1)
        n_best = self.generator.generate(models, sample, prefix_tokens=prefix)
        return [[self._hypothesis(generated) for generated in hypotheses[: self.nbest]] for hypotheses in n_best]

    def _hypothesis(self, generated: Dict[str, Any]) -> Hypothesis:
        eos, stripped = self.generator.eos, self.generator.symbols_to_strip_from_output
        pairs = list(zip(generated["tokens"].tolist(), generated["positional_scores"].tolist()))
        log_prob = sum(score for token, score in pairs if token not in stripped or token == eos)
        pairs = [(token, score) for token, score in pairs if token not in stripped]
        tokens, scores = [token for token, _ in pairs], [score for _, score in pairs]
        return Hypothesis(tokens, float(generated["score"]), log_prob, token_scores=scores)


class NGramBlocker(NGramRepeatBlock):
    """fairseq's --no-repeat-ngram-size, which without its CUDA extension blocks nothing: it compares n-grams with the
    end of the buffer that hypotheses are written to, instead of the tokens written last. Of size 1, no token twice, it
    blocks nothing with the extension either."""

    def __init__(self, size: int) -> None:
        super().__init__(size, use_extension=False)

    def forward(self, tokens: Tensor, lprobs: Tensor, bsz: int, beam_size: int, step: int) -> Tensor:
        if self.no_repeat_ngram_size == 1:
            return lprobs.scatter(1, tokens[:, 1 : step + 1], -torch.inf)
        return super().forward(tokens[:, : step + 1], lprobs, bsz, beam_size, step)


class OwnLimits(nn.Module):
    """A search strategy that ends each utterance at its own limit, and leaves tokens out; all else is done by the
    strategy inside."""

    def __init__(self, search: nn.Module, never_written: Sequence[int] = (), never_first: Sequence[int] = ()) -> None:
        super().__init__()
        self.inner = search
        self.limits: Dict[int, int] = {}
        self.never_written, self.never_first = list(never_written), list(never_first)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def step(self, step: int, lprobs: Tensor, scores: Tensor, prev_output_tokens: Tensor, original_batch_idxs: Tensor):
        """As the strategy's own; lprobs [B, beam, V]. Utterances at their limit may only take </s>."""
        if self.never_written:
            lprobs = lprobs.index_fill(-1, torch.tensor(self.never_written, device=lprobs.device), -torch.inf)
        if self.never_first and step == 0:
            lprobs = lprobs.index_fill(-1, torch.tensor(self.never_first, device=lprobs.device), -torch.inf)
        ended = [step >= self.limits[i] for i in original_batch_idxs.tolist()]
        if any(ended):
            not_eos = torch.arange(lprobs.size(-1), device=lprobs.device) != self.inner.eos
            ended = torch.tensor(ended, device=lprobs.device)[:, None, None]
            lprobs = lprobs.masked_fill(ended & not_eos, -torch.inf)
        return self.inner.step(step, lprobs, scores, prev_output_tokens, original_batch_idxs)
