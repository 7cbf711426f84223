"""Criterion `multi_teacher`: one student learns the features of several teachers (Yang et al., 2303.10917, stage 1).

    l_k = sum_p w_kp / F * sum_t [ a |p_kpt - z_kpt|_1 / D_k + ... ]      the terms of `feature_regression`; L1 alone
                                                                        unless given otherwise
    sum        loss = sum_k lambda_k l_k                   a head for every teacher and layer pair
    random     loss = l_k, k drawn for each utterance with probability lambda_k; only that teacher runs on it
    average    loss = l with z = sum_k lambda_k z_k        one head for all teachers' p-th pairs

lambda_k are --teacher-weights, scaled to sum 1. An utterance has the frames that the student shares with all its
teachers. Validation of `random` is its expectation, the loss of `sum`. With --target-shift s the student's frame t + s
predicts the teacher's frame t, so that a streaming student hears s more frames first.

Learnt frame adapters (--frame-rule concat_tanh) add to the training loss how badly they restore the teacher's frames;
that reaches nothing but the adapters.
"""

from dataclasses import dataclass, field
from typing import Dict, List, Tuple

import torch
from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from torch import Tensor

from colld_fairseq.criterions.batches import Frames, Part, average, draw_rows, logging_output, sum_logs
from colld_fairseq.criterions.feature_regression import FeatureRegressionConfig, FeatureRegressionCriterion
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.regression import regression_loss
from colld_fairseq.modules.lengths import lengths_to_padding_mask
from colld_fairseq.numbers import COUNT_OR_NONE, NOT_NEGATIVE


@dataclass
class MultiTeacherConfig(FeatureRegressionConfig):
    log_sigmoid_cosine_weight: float = field(default=0.0, metadata=NOT_NEGATIVE.help("weight of -log sigmoid(cos)"))
    target_shift: int = field(
        default=0,
        metadata=COUNT_OR_NONE.help("student frames by which predictions come after their targets (streaming: > 0)"),
    )


@register_criterion("multi_teacher", dataclass=MultiTeacherConfig)
class MultiTeacherCriterion(FeatureRegressionCriterion):
    cfg: MultiTeacherConfig
    extra_terms = ("restored",)
    several_teachers = True

    def forward(self, model, sample: Dict, reduce: bool = True):
        """Returns (loss summed over frames, number of frames, logging output)."""
        self.check_ddp(model)
        output = model(**sample["net_input"])
        parts, restored = self.parts(model, sample, output)
        loss, log = (restored if self.training else 0.0), {}
        batches = [self.cut(part, output) for part in parts]
        counts = [self.counted(batch).sum() for batch in batches]
        # The same clips in every part, or each clip in one of them.
        sample_size = sum(counts) if parts[0].rows is not None else counts[0]
        for part, batch, count in zip(parts, batches, counts):
            term, _, terms = self.regression(batch, self.counted(batch))
            loss = loss + part.weight * term
            for name, value in terms.items():
                log[name] = log.get(name, 0.0) + part.weight * value
            log[f"loss_{part.name}"], log[f"frames_{part.name}"] = term, count
        if model.heads.adapters:
            log["restored"] = restored
        valid, masked = (sum(getattr(batch, name).sum() for batch in batches) for name in ("valid", "masked"))
        return loss, sample_size, logging_output(sample, loss, sample_size, log, valid, masked)

    def parts(self, model, sample: Dict, output) -> Tuple[List[Part], Tensor]:
        """The losses of a batch, and the distance [0-dim, sum over frames] between restored and teacher frames."""
        weights, drawn = self.task.teachers.weights, {}
        if self.task.combination == "random" and self.training:
            drawn = draw_rows(weights, len(output.lengths), output.lengths.device)
        aligned = {
            name: source.targets(sample, output.lengths, model.prediction_rate_hz, drawn.get(name))
            for name, source in self.task.teachers.items()
        }
        if not drawn:
            shared = torch.stack([lengths for _, lengths in aligned.values()]).amin(0)
            aligned = {name: (features, shared) for name, (features, _) in aligned.items()}
        parts, restored = [], 0.0
        for name, (features, lengths) in aligned.items():
            heads = [number for number, pair in enumerate(model.pairs) if pair.teacher == name]
            targets, distance = self.make_targets(model, heads, features, lengths)
            # What is drawn with its weight as probability is not weighed again.
            parts.append(Part(name, 1.0 if drawn else weights[name], heads, targets, lengths, drawn.get(name)))
            restored = restored + distance
        return ([average(parts)] if self.task.combination == "average" else parts), restored

    def make_targets(self, model, heads: List[int], features: Dict[int, Tensor], lengths: Tensor):
        """Targets [B, T, D] of the pairs `heads`, and how far their adapters, if any, are from restoring the frames."""
        padding = lengths_to_padding_mask(lengths)
        features = {layer: value[:, : padding.size(1)] for layer, value in features.items()}
        targets, distance = [], 0.0
        for number in heads:
            target = self.target(features, model.pairs[number].teachers, padding)
            if str(number) in model.heads.adapters:
                stacked = target
                target, restored = model.heads.adapters[str(number)](stacked)
                distance = distance + regression_loss(restored, stacked, ~padding, log_sigmoid_cosine=0.0).loss_sum
            targets.append(target)
        return targets, distance

    def cut(self, part: Part, output) -> Frames:
        """The frames on which predictions and targets meet, the predictions `target_shift` later.

        A teacher that no clip drew has a batch of none: its heads get a gradient, of 0, as distributed training wants.
        """
        shift = self.cfg.target_shift
        valid = ~lengths_to_padding_mask((part.lengths - shift).clamp_min(0))
        frames = valid.size(1)

        def later(value: Tensor) -> Tensor:
            return (value if part.rows is None else value[part.rows])[:, shift : shift + frames]

        return Frames(
            predictions=[later(output.predictions[head]) for head in part.heads],
            targets=[target[:, :frames] for target in part.targets],
            weights=self.head_weights(part.heads, len(output.predictions)),
            valid=valid,
            masked=valid if output.mask is None else later(output.mask) & valid,
            features={},
            output=output,
        )

    def head_weights(self, heads: List[int], count: int) -> List[float]:
        """Weights of these of `count` heads."""
        if not self.given_weights:
            return [1.0 / len(heads)] * len(heads)
        weights = self.layer_weights(count)
        return [weights[head] for head in heads]

    def check_ddp(self, model) -> None:
        if model.heads.adapters and getattr(model, "find_unused_parameters", False):
            raise ConfigError("--frame-rule concat_tanh: leave out --find-unused-parameters; every parameter is used")

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        super().reduce_metrics(logging_outputs)
        totals = sum_logs(logging_outputs)
        for name in [name for name in totals if name.startswith("loss_")]:
            frames = max(totals[name.replace("loss_", "frames_", 1)], 1)
            metrics.log_scalar(name, totals[name] / frames, frames, round=4)
