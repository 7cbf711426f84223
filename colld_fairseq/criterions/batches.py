"""The texts of a batch."""

from typing import Dict, List, NamedTuple

import torch
from torch import Tensor


class Texts(NamedTuple):
    """The M texts that the clips of a batch are trained on: one each, or those of n-best lists.

    labels int64 [M, U] without language tag, label_lengths [M]; names: of their clips; weights float32 [M], of each
    clip's texts 1 in all; inputs: what the model's forward takes for them.
    """

    labels: Tensor
    label_lengths: Tensor
    names: List[str]
    weights: Tensor
    inputs: Dict[str, Tensor]


def texts_of(sample: Dict, prefix_size: int) -> Texts:
    """The texts of a batch of SpeechToTextDataset; the first `prefix_size` target tokens are given, not predicted."""
    lists = sample.get("nbest")
    source = {**sample, **sample["net_input"]} if lists is None else lists
    labels = source["target"][:, prefix_size:-1]
    label_lengths = source["target_lengths"].to(labels.device) - prefix_size - 1
    inputs = {"prev_output_tokens": source["prev_output_tokens"], "label_lengths": label_lengths}
    if lists is None:
        weights = torch.ones(len(labels), device=labels.device)
        return Texts(labels, label_lengths, sample["utt_id"], weights, inputs)
    inputs["clips"] = lists["clips"]
    names = [sample["utt_id"][clip] for clip in lists["clips"].tolist()]
    return Texts(labels, label_lengths, names, lists["weights"].float(), inputs)
