"""Criterion `colld`: masked prediction and contrastive layer-to-layer distillation (CoLLD-style, reconstructed).

For every masked frame t and layer pair k the head's prediction p_kt must pick the teacher's frame z_kt out of N other
masked frames of the same utterance (Chang et al. 2023, 2309.07707, described in USAD 2506.18843), or of the batch:

    l_kt = -log exp(cos(p_kt, z_kt) / temp) / ( exp(cos(p_kt, z_kt) / temp) + sum_n exp(cos(p_kt, z_kn) / temp) )

    loss = contrastive_weight * sum_k w_k mean_t l_kt + the terms of `feature_regression`, whose weights are 0 here
    unless given: at a small budget the regression terms learn faster than the contrastive one (see RESULTS.md).
"""

from dataclasses import dataclass
from typing import List, Optional

import torch
from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from torch import Tensor

from colld_fairseq.criterions.distillation import Frames
from colld_fairseq.criterions.feature_regression import FeatureRegressionConfig, FeatureRegressionCriterion
from colld_fairseq.criterions.logs import sum_logs
from colld_fairseq.losses.contrastive import contrastive_loss, sample_negatives
from colld_fairseq.numbers import COUNT, COUNT_OR_NONE, NOT_NEGATIVE, POSITIVE, option

# Validation draws its negatives with this seed, so that losses of different checkpoints are comparable.
VALID_NEGATIVES_SEED = 1


@dataclass
class ColldConfig(FeatureRegressionConfig):
    contrastive_weight: float = option(1.0, "weight of the contrastive term", NOT_NEGATIVE)
    num_negatives: int = option(
        100,
        "negatives per frame, from --negatives-from; 0 = all its other masked frames (w2v-BERT: 100)",
        COUNT_OR_NONE,
    )
    negatives_from: ChoiceEnum(["utterance", "batch"]) = option(
        "utterance",
        "whose masked frames are negatives: those of the same utterance (w2v-BERT), or of all utterances of the batch;"
        " in validation always the former",
    )
    negatives_distance: int = option(
        1, "frames that a negative of the same utterance is away at least; 1 = the next ones, too", COUNT
    )
    logit_temp: float = option(0.1, "temperature dividing the cosines (w2v-BERT: 0.1)", POSITIVE)
    l1_weight: float = option(0.0, "weight of the mean absolute difference", NOT_NEGATIVE)
    log_sigmoid_cosine_weight: float = option(0.0, "weight of -log sigmoid(cos)", NOT_NEGATIVE)
    target_norm: str = option(
        "instance",
        "teacher features: none (as they are), instance (per channel over the utterance, our choice) or layer"
        " (affine-free LayerNorm)",
    )


@register_criterion("colld", dataclass=ColldConfig)
class ColldCriterion(FeatureRegressionCriterion):
    cfg: ColldConfig
    logged_terms = (*FeatureRegressionCriterion.logged_terms, "contrastive")

    def term_weights(self) -> List[float]:
        return [*super().term_weights(), self.cfg.contrastive_weight]

    def compute_loss(self, frames: Frames):
        """Each term is a mean over its own frames; the sample size is the number of contrasted frames."""
        contrastive, count, correct = self.contrastive(
            frames.predictions, frames.targets, frames.weights, frames.masked
        )
        loss = self.cfg.contrastive_weight * contrastive
        log = {"contrastive": contrastive, "correct": correct, "contrasted": count * len(frames.predictions)}
        if any(self.regression_weights.values()):
            regression, valid, parts = super().compute_loss(frames)
            scale = count / valid.clamp_min(1)
            loss = loss + scale * regression
            log.update({name: scale * value for name, value in parts.items()})
        return loss, count, log

    def contrastive(self, predictions, targets, weights, masked: Tensor):
        """Loss summed over layer pairs and frames, contrasted frames [0-dim], correct decisions [0-dim]."""
        if self.training:
            return self.contrast(predictions, targets, weights, masked)
        # In validation one by one with the same seed: the loss of an utterance does not depend on its batch.
        utterances = [
            self.contrast(
                [p[i] for p in predictions], [z[i] for z in targets], weights, masked[i], VALID_NEGATIVES_SEED
            )
            for i in (slice(row, row + 1) for row in range(len(masked)))
        ]
        return tuple(sum(values) for values in zip(*utterances))

    def contrast(self, predictions, targets, weights, masked: Tensor, seed: Optional[int] = None):
        generator = None if seed is None else torch.Generator(masked.device).manual_seed(seed)
        from_batch = str(self.cfg.negatives_from) == "batch"
        plan = sample_negatives(masked, self.cfg.num_negatives, generator, self.cfg.negatives_distance, from_batch)
        loss, correct = 0.0, 0
        for prediction, target, weight in zip(predictions, targets, weights):
            term = contrastive_loss(prediction, target, plan, self.cfg.logit_temp)
            loss = loss + weight * term.loss_sum
            correct = correct + term.correct
        return loss, plan.count, correct

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        super().reduce_metrics(logging_outputs)
        totals = sum_logs(logging_outputs)
        contrasted = max(totals["contrasted"], 1)
        metrics.log_scalar("accuracy", 100 * totals["correct"] / contrasted, contrasted, round=2)
