"""Pruned training of transducers: which nodes of a batch's lattices the joiner sees, and what the two losses weigh.

    loss = a(n) * simple + b(n) * pruned        n = update; a: 1 -> --simple-weight, b: 0.1 -> 1 over the warm-up

as in icefall's recipes: until the simple joiner knows where labels lie, its range holds little of what is likely.
"""

from dataclasses import dataclass
from typing import Optional, Tuple

from fairseq.dataclass import FairseqDataclass
from torch import Tensor

from colld_fairseq.criterions.transducer.targets import TargetSequences
from colld_fairseq.losses.transducer_pruned import SimpleTransducerOutput, prune_ranges, simple_transducer_loss
from colld_fairseq.numbers import COUNT_OR_NONE, NOT_NEGATIVE, SHARE, option

FIRST_PRUNED_WEIGHT = 0.1  # icefall


@dataclass
class PrunedTrainingConfig(FairseqDataclass):
    simple_weight: float = option(0.5, "weight of the simple joiner's loss (icefall: 0.5)", NOT_NEGATIVE)
    prune_warmup_updates: int = option(
        2000,
        "updates from weights 1 and 0.1 of simple and pruned loss to --simple-weight and 1 (icefall)",
        COUNT_OR_NONE,
    )
    simple_lm_scale: float = option(
        0.25, "share of its predictor alone in the simple joiner's ln p (icefall: 0.25)", SHARE
    )


class PrunedRange:
    """Chooses the pruned range of one batch when the model calls it, and keeps the simple loss that it follows from.

    options: those that simple and pruned loss share.
    """

    def __init__(self, sequences: TargetSequences, prune_range: int, lm_only_scale: float, **options) -> None:
        self.sequences, self.prune_range = sequences, prune_range
        self.lm_only_scale, self.options = lm_only_scale, options
        self.simple: Optional[SimpleTransducerOutput] = None  # of the sequences whose utterances have frames

    def __call__(self, am: Tensor, lm: Tensor, lengths: Tensor) -> Tensor:
        """Outputs of the simple joiner, am [M, T, V] and lm [M, U+1, V], lengths [M] -> ranges [M, T', S]."""
        has_frames = lengths > 0
        names, lengths = self.sequences.names_of(has_frames), lengths[has_frames]
        labels, counts = self.sequences.labels[has_frames], self.sequences.label_lengths[has_frames]
        self.simple = simple_transducer_loss(
            am[has_frames],
            lm[has_frames],
            labels,
            lengths,
            counts,
            lm_only_scale=self.lm_only_scale,
            utterance_ids=names,
            **self.options,
        )
        if not names:
            return lengths.new_zeros(len(has_frames), 0, self.prune_range)
        posteriors = self.simple.blank_posterior, self.simple.label_posterior
        chosen = prune_ranges(*posteriors, lengths, counts, self.prune_range, self.options["topology"])
        ranges = chosen.new_zeros(len(has_frames), *chosen.shape[1:])
        ranges[has_frames] = chosen
        return ranges


def warmup_weights(num_updates: int, warmup_updates: int, simple_weight: float) -> Tuple[float, float]:
    """Weights of the simple and of the pruned loss at an update."""
    done = min(num_updates / warmup_updates, 1.0) if warmup_updates else 1.0
    return 1.0 + done * (simple_weight - 1.0), FIRST_PRUNED_WEIGHT + done * (1.0 - FIRST_PRUNED_WEIGHT)
