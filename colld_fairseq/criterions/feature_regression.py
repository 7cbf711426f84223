"""Criterion `feature_regression`: the student's heads regress the teacher's features, layer by layer.

    loss = sum_k w_k / F * sum_t [ a |p_kt - z_kt|_1 / D + b |p_kt - z_kt|_2^2 / D + c (1 - cos) - d log sigmoid(cos) ]

over the F frames that count (all, or the masked ones); a, b, c, d are options, w_k = 1/K unless given. With the right
model options this is DistilHuBERT, layer-to-layer L1+cosine, FitHuBERT, LightHuBERT or USAD: see examples/baselines.
"""

from dataclasses import dataclass
from typing import List

from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from torch import Tensor

from colld_fairseq.criterions.distillation import DistillationConfig, DistillationCriterion, Frames
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.regression import regression_loss
from colld_fairseq.numbers import NOT_NEGATIVE, option


@dataclass
class FeatureRegressionConfig(DistillationConfig):
    l1_weight: float = option(1.0, "weight of the mean absolute difference (DistilHuBERT: 1)", NOT_NEGATIVE)
    mse_weight: float = option(0.0, "weight of the mean squared difference (FitHuBERT: 1)", NOT_NEGATIVE)
    cosine_weight: float = option(0.0, "weight of 1 - cos", NOT_NEGATIVE)
    log_sigmoid_cosine_weight: float = option(
        1.0, "weight of -log sigmoid(cos) (DistilHuBERT and USAD: 1)", NOT_NEGATIVE
    )
    regression_frames: ChoiceEnum(["all", "masked"]) = option("all", "frames the regression terms are computed on")


@register_criterion("feature_regression", dataclass=FeatureRegressionConfig)
class FeatureRegressionCriterion(DistillationCriterion):
    cfg: FeatureRegressionConfig
    logged_terms = (*DistillationCriterion.logged_terms, "l1", "mse", "cosine", "log_sigmoid_cosine")

    def __init__(self, cfg: FeatureRegressionConfig, task) -> None:
        super().__init__(cfg, task)
        self.regression_weights = dict(
            l1=cfg.l1_weight,
            mse=cfg.mse_weight,
            cosine=cfg.cosine_weight,
            log_sigmoid_cosine=cfg.log_sigmoid_cosine_weight,
        )

    def term_weights(self) -> List[float]:
        return list(self.regression_weights.values())

    def check_heads(self, student) -> None:
        super().check_heads(student)
        if not any(self.term_weights()):
            raise ConfigError("every weight of the loss is 0: give a term a weight, --l1-weight for example")

    def compute_loss(self, frames: Frames):
        return self.regression(frames, self.counted(frames))

    def counted(self, frames: Frames) -> Tensor:
        """bool [B, T], the frames that carry a loss."""
        return frames.valid if self.cfg.regression_frames == "all" else frames.masked

    def regression(self, frames: Frames, mask: Tensor):
        """Weighted sum of the regression terms over layer pairs and frames, frames [0-dim], the terms for the log."""
        loss, log = 0.0, {}
        for prediction, target, weight in zip(frames.predictions, frames.targets, frames.weights):
            term = regression_loss(prediction, target, mask, **self.regression_weights)
            loss = loss + weight * term.loss_sum
            for name, value in term.parts.items():
                log[name] = log.get(name, 0.0) + weight * value
        return loss, mask.sum(), log
