"""What criterions hand around: a batch on the shared frames, its texts, and sums for the log."""

from typing import Any, Dict, List, NamedTuple, Optional

import torch
from torch import Tensor


class Frames(NamedTuple):
    """A batch on the frames that student and teacher share, T of them in the longest clip.

    predictions, targets: K tensors [B, T, D]; weights: of the K layer pairs; valid, masked: bool [B, T], the frames
    that count and those of them whose input was masked; features: teacher layer -> [B, T, D]; output: the student's.
    """

    predictions: List[Tensor]
    targets: List[Tensor]
    weights: List[float]
    valid: Tensor
    masked: Tensor
    features: Dict[int, Tensor]
    output: Any


class Part(NamedTuple):
    """One loss among several: heads of the student (their numbers), their targets [B, T, D] on `lengths` [B] frames of
    the clips `rows` int64 [B] of the batch (None: of all), and the weight of it all."""

    name: str
    weight: float
    heads: List[int]
    targets: List[Tensor]
    lengths: Tensor
    rows: Optional[Tensor] = None


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


def average(parts: List[Part]) -> Part:
    """One part whose targets are the weighted means, float32, of the parts' first, second, ... targets."""
    weights = [part.weight for part in parts]
    means = [
        sum(weight * target.to(torch.promote_types(target.dtype, torch.float32)) for weight, target in zip(weights, at))
        for at in zip(*(part.targets for part in parts))
    ]
    return parts[0]._replace(name="average", weight=1.0, targets=means)


def draw_rows(weights: Dict[str, float], count: int, device) -> Dict[str, Tensor]:
    """Draws one of the names for each of `count` clips, with `weights` as probabilities; name -> its clips, int64.

    From torch's random state, which fairseq sets anew at every update, so that a resumed run draws the same. That
    state is the same for all workers, but they shall not all draw the same.
    """
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())) + rank)
    drawn = torch.multinomial(torch.tensor(list(weights.values())), count, replacement=True, generator=generator)
    return {name: (drawn == place).nonzero().squeeze(1).to(device) for place, name in enumerate(weights)}


def logging_output(
    sample: Dict, loss: Tensor, sample_size: Tensor, terms: Dict, valid: Tensor, masked: Tensor
) -> Dict[str, Any]:
    """Sums over a batch, for `reduce_metrics`: the loss, its terms, and what they were computed on."""
    terms = {name: value.detach() if torch.is_tensor(value) else value for name, value in terms.items()}
    return dict(
        terms,
        loss=loss.detach(),
        sample_size=sample_size,
        ntokens=sample["ntokens"],
        nsentences=sample["nsentences"],
        audio_seconds=sample["audio_seconds"],
        masked_frames=masked.sum(),
        valid_frames=valid.sum(),
    )


def sum_logs(logging_outputs) -> Dict[str, float]:
    totals: Dict[str, float] = {}
    for log in logging_outputs:
        for name, value in log.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    return totals
