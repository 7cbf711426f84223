"""Criterion `feature_regression`: the student's heads regress the teacher's features, layer by layer.

    loss = sum_k w_k / F * sum_t [ a |p_kt - z_kt|_1 / D + b |p_kt - z_kt|_2^2 / D + c (1 - cos) - d log sigmoid(cos) ]

over the F frames that count (all, or the masked ones); a, b, c, d are options, w_k = 1/K unless given. With the right
model options this is DistilHuBERT, layer-to-layer L1+cosine, FitHuBERT, LightHuBERT or USAD: see examples/baselines.
"""

from dataclasses import dataclass, field
from typing import Dict, List

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.regression import regression_loss
from colld_fairseq.losses.targets import NORMALISATIONS, average_layers, normalise_targets
from colld_fairseq.modules.lengths import lengths_to_padding_mask

TargetNorm = ChoiceEnum(list(NORMALISATIONS))


@dataclass
class FeatureRegressionConfig(FairseqDataclass):
    l1_weight: float = field(default=1.0, metadata={"help": "weight of the mean absolute difference (DistilHuBERT: 1)"})
    mse_weight: float = field(default=0.0, metadata={"help": "weight of the mean squared difference (FitHuBERT: 1)"})
    cosine_weight: float = field(default=0.0, metadata={"help": "weight of 1 - cos"})
    log_sigmoid_cosine_weight: float = field(
        default=1.0, metadata={"help": "weight of -log sigmoid(cos) (DistilHuBERT and USAD: 1)"}
    )
    regression_frames: ChoiceEnum(["all", "masked"]) = field(
        default="all", metadata={"help": "frames the regression terms are computed on"}
    )
    layer_weights: str = field(
        default="", metadata={"help": "weights of the layer pairs, comma-separated (default: 1/K each)"}
    )
    target_norm: TargetNorm = field(
        default="none",
        metadata={"help": "teacher features: as they are, per channel over the utterance, or affine-free LayerNorm"},
    )


@register_criterion("feature_regression", dataclass=FeatureRegressionConfig)
class FeatureRegressionCriterion(FairseqCriterion):
    def __init__(self, cfg: FeatureRegressionConfig, task) -> None:
        super().__init__(task)
        self.cfg = cfg
        self.regression_weights = dict(
            l1=cfg.l1_weight,
            mse=cfg.mse_weight,
            cosine=cfg.cosine_weight,
            log_sigmoid_cosine=cfg.log_sigmoid_cosine_weight,
        )
        self.given_weights = [float(weight) for weight in cfg.layer_weights.split(",") if weight]

    @classmethod
    def build_criterion(cls, cfg, task):
        return cls(cfg, task)

    def forward(self, model, sample: Dict, reduce: bool = True):
        """Returns (loss summed over frames, number of frames, logging output)."""
        output = model(**sample["net_input"])
        features, lengths = self.task.teacher_targets(sample, output.lengths, model.prediction_rate_hz)
        padding = lengths_to_padding_mask(lengths)
        frames = padding.size(1)
        masked = ~padding if output.mask is None else output.mask[:, :frames] & ~padding
        predictions = [prediction[:, :frames] for prediction in output.predictions]
        targets = [self.target(features, pair.teachers, padding) for pair in model.pairs]
        weights = self.layer_weights(len(predictions))

        loss, sample_size, log = self.compute_loss(predictions, targets, weights, ~padding, masked)
        log = {name: value.detach() if torch.is_tensor(value) else value for name, value in log.items()}
        log.update(
            loss=loss.detach(),
            sample_size=sample_size,
            ntokens=sample["ntokens"],
            nsentences=sample["nsentences"],
            audio_seconds=sample["audio_seconds"],
            masked_frames=masked.sum(),
            valid_frames=(~padding).sum(),
        )
        return loss, sample_size, log

    def compute_loss(self, predictions: List[Tensor], targets: List[Tensor], weights, valid: Tensor, masked: Tensor):
        return self.regression(predictions, targets, weights, valid if self.cfg.regression_frames == "all" else masked)

    def regression(self, predictions, targets, weights, mask: Tensor):
        """Weighted sum of the regression terms over layer pairs and frames, frames [0-dim], the terms for the log."""
        loss, log = 0.0, {}
        for prediction, target, weight in zip(predictions, targets, weights):
            term = regression_loss(prediction, target, mask, **self.regression_weights)
            loss = loss + weight * term.loss_sum
            for name, value in term.parts.items():
                log[name] = log.get(name, 0.0) + weight * value
        return loss, mask.sum(), log

    def target(self, features: Dict[int, Tensor], layers, padding: Tensor) -> Tensor:
        if len(layers) == 1:
            return normalise_targets(features[layers[0]], padding, str(self.cfg.target_norm))
        return average_layers([features[layer] for layer in layers], padding, str(self.cfg.target_norm))

    def layer_weights(self, count: int) -> List[float]:
        if not self.given_weights:
            return [1.0 / count] * count
        if len(self.given_weights) != count:
            raise ConfigError(f"--layer-weights gives {len(self.given_weights)} weights for {count} layer pairs")
        return self.given_weights

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        totals = sum_logs(logging_outputs)
        frames = max(totals["sample_size"], 1)
        metrics.log_scalar("loss", totals["loss"] / frames, frames, round=4)
        for name in ("l1", "mse", "cosine", "log_sigmoid_cosine", "regression", "contrastive"):
            if name in totals:
                metrics.log_scalar(name, totals[name] / frames, frames, round=4)
        metrics.log_scalar("masked", totals["masked_frames"] / max(totals["valid_frames"], 1), frames, round=3)
        metrics.log_speed("audio_x", totals["audio_seconds"], priority=85, round=1)  # seconds of audio a second

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


def sum_logs(logging_outputs) -> Dict[str, float]:
    totals: Dict[str, float] = {}
    for log in logging_outputs:
        for name, value in log.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    return totals
