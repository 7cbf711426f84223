"""Criterion `feature_regression`: the student's heads regress the teacher's features, layer by layer.

    loss = sum_k w_k / F * sum_t [ a |p_kt - z_kt|_1 / D + b |p_kt - z_kt|_2^2 / D + c (1 - cos) - d log sigmoid(cos) ]

over the F frames that count (all, or the masked ones); a, b, c, d are options, w_k = 1/K unless given. With the right
model options this is DistilHuBERT, layer-to-layer L1+cosine, FitHuBERT, LightHuBERT or USAD: see examples/baselines.
"""

from dataclasses import dataclass, field
from typing import Dict, List

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from colld_fairseq.criterions.batches import Frames, logging_output, sum_logs
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.regression import regression_loss
from colld_fairseq.losses.targets import NORMALISATIONS, average_layers, normalise_targets
from colld_fairseq.modules.lengths import lengths_to_padding_mask
from colld_fairseq.numbers import NOT_NEGATIVE

TargetNorm = ChoiceEnum(list(NORMALISATIONS))


@dataclass
class FeatureRegressionConfig(FairseqDataclass):
    l1_weight: float = field(
        default=1.0, metadata=NOT_NEGATIVE.help("weight of the mean absolute difference (DistilHuBERT: 1)")
    )
    mse_weight: float = field(
        default=0.0, metadata=NOT_NEGATIVE.help("weight of the mean squared difference (FitHuBERT: 1)")
    )
    cosine_weight: float = field(default=0.0, metadata=NOT_NEGATIVE.help("weight of 1 - cos"))
    log_sigmoid_cosine_weight: float = field(
        default=1.0, metadata=NOT_NEGATIVE.help("weight of -log sigmoid(cos) (DistilHuBERT and USAD: 1)")
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
    extra_terms = ()  # names that `compute_loss` of a subclass logs, each a sum over frames
    several_teachers = False  # whether the loss reaches the features of more than one

    def __init__(self, cfg: FeatureRegressionConfig, task) -> None:
        super().__init__(task)
        self.cfg = cfg
        self.regression_weights = dict(
            l1=cfg.l1_weight,
            mse=cfg.mse_weight,
            cosine=cfg.cosine_weight,
            log_sigmoid_cosine=cfg.log_sigmoid_cosine_weight,
        )
        self.given_weights = [
            NOT_NEGATIVE.read(part, "--layer-weights") for part in cfg.layer_weights.split(",") if part
        ]

    @classmethod
    def build_criterion(cls, cfg, task):
        if len(task.teachers) > 1 and not cls.several_teachers:
            raise ConfigError(f"this criterion is for one teacher, not {len(task.teachers)}: --criterion multi_teacher")
        criterion = cls(cfg, task)
        criterion.check_heads(task.code_head, task.front_end_head)
        return criterion

    def check_heads(self, code_head: str, front_end_head: bool) -> None:
        """Raises ConfigError unless the student has the heads that the loss needs, and no others."""
        if code_head != "none" or front_end_head:
            raise ConfigError(
                "no loss of this criterion reaches the student's --code-head or --front-end-head: leave them out, or"
                " take --criterion hubert_distillation"
            )

    def forward(self, model, sample: Dict, reduce: bool = True):
        """Returns (loss summed over frames, number of frames, logging output)."""
        output = model(**sample["net_input"])
        features, lengths = self.teacher_targets(model, sample, output)
        padding = lengths_to_padding_mask(lengths)
        frames = padding.size(1)
        predictions = [prediction[:, :frames] for prediction in output.predictions]
        batch = Frames(
            predictions=predictions,
            targets=[self.target(features, pair.teachers, padding) for pair in model.pairs],
            weights=self.layer_weights(len(predictions)),
            valid=~padding,
            masked=~padding if output.mask is None else output.mask[:, :frames] & ~padding,
            features=features,
            output=output,
        )
        loss, sample_size, log = self.compute_loss(batch)
        return loss, sample_size, logging_output(sample, loss, sample_size, log, batch.valid, batch.masked)

    def teacher_targets(self, model, sample: Dict, output, **how: bool):
        return self.task.teacher_targets(sample, output.lengths, model.prediction_rate_hz, **how)

    def compute_loss(self, batch: Frames):
        """Loss summed over frames, number of frames [0-dim], the terms for the log."""
        return self.regression(batch, self.counted(batch))

    def counted(self, batch: Frames) -> Tensor:
        """bool [B, T], the frames that carry a loss."""
        return batch.valid if self.cfg.regression_frames == "all" else batch.masked

    def regression(self, batch: Frames, mask: Tensor):
        """Weighted sum of the regression terms over layer pairs and frames, frames [0-dim], the terms for the log."""
        loss, log = 0.0, {}
        for prediction, target, weight in zip(batch.predictions, batch.targets, batch.weights):
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
        for name in ("l1", "mse", "cosine", "log_sigmoid_cosine", *cls.extra_terms):
            if name in totals:
                metrics.log_scalar(name, totals[name] / frames, frames, round=4)
        metrics.log_scalar("masked", totals["masked_frames"] / max(totals["valid_frames"], 1), frames, round=3)
        metrics.log_speed("audio_x", totals["audio_seconds"], priority=85, round=1)  # seconds of audio a second

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
