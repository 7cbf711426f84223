"""The target sequences of a batch of transducer training: one for each utterance, or those of n-best lists."""

from typing import Dict, List, NamedTuple, Tuple

import torch
from torch import Tensor


class TargetSequences(NamedTuple):
    """M target sequences.

    labels int64 [M, U] without language tag, label_lengths [M]; names: of their utterances; weights float32 [M], those
    of an utterance's sequences sum to 1; inputs: what the model's forward takes for them.
    """

    labels: Tensor
    label_lengths: Tensor
    names: List[str]
    weights: Tensor
    inputs: Dict[str, Tensor]

    def counting(self, counted: Tensor) -> Tuple[Tensor, Tensor]:
        """Weights [M] of the sequences that are `counted` (bool [M]), 0 of the others, and of utterances [B] whether
        one of their sequences counts. What the others of a list would have weighed goes to those that count."""
        weights = self.weights * counted
        rows = self.inputs.get("utterances")
        if rows is None:
            return weights, counted
        sums = weights.new_zeros(int(rows.max()) + 1).index_add_(0, rows, weights)
        if not counted.all():
            weights = weights / sums[rows].clamp_min(torch.finfo(sums.dtype).tiny)
        return weights, sums > 0

    def names_of(self, kept: Tensor) -> List[str]:
        """The names of some of them, `kept` bool [M]."""
        return [name for name, keep in zip(self.names, kept.tolist()) if keep]


def target_sequences(sample: Dict, prefix_size: int) -> TargetSequences:
    """Those of a batch of SpeechToTextDataset; the first `prefix_size` target tokens are given, not predicted."""
    lists = sample.get("nbest")
    source = {**sample, **sample["net_input"]} if lists is None else lists
    labels = source["target"][:, prefix_size:-1]
    label_lengths = source["target_lengths"].to(labels.device) - prefix_size - 1
    inputs = {"prev_output_tokens": source["prev_output_tokens"], "label_lengths": label_lengths}
    if lists is None:
        weights = torch.ones(len(labels), device=labels.device)
        return TargetSequences(labels, label_lengths, sample["utt_id"], weights, inputs)
    inputs["utterances"] = lists["utterances"]
    names = [sample["utt_id"][row] for row in lists["utterances"].tolist()]
    return TargetSequences(labels, label_lengths, names, lists["weights"].float(), inputs)
