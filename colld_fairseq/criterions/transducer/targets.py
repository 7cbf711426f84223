"""The target sequences of a batch of transducer training: one for each utterance, or those of n-best lists."""

from typing import Dict, List, NamedTuple

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
    inputs["clips"] = lists["clips"]
    names = [sample["utt_id"][row] for row in lists["clips"].tolist()]
    return TargetSequences(labels, label_lengths, names, lists["weights"].float(), inputs)
