"""Criterion `hubert_distillation`: regression, code classes and front-end adaptation (Wang et al., 2210.15631).

    updates < S_fe     loss = w_fe * mean_t |F f(t) + b - h_0(t)|_1 / D     (training only; no student block is run)
    from then on       loss = the terms of `feature_regression` + w_disc * mean_t KL(q_T(. | t) || q_S(. | t))

f: the student's front-end before its positions, h_0: input of the teacher's first block. q_T: softmax of the teacher's
code logits / teacher_temp, q_S: softmax of the code head's logits / student_temp (--code-head linear, the authors'
type2) or of its cosines to the teacher's code embeddings / student_temp (--code-head cosine, type1).
--discriminative-target hard puts the cross-entropy with the teacher's best class in the place of KL (type3). All means
are over the frames that --regression-frames names.

Validation is always on the whole loss, so that checkpoints of both stages compare; what it reports of the front-end is
no part of it.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Dict

from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from torch import Tensor

from colld_fairseq.criterions.distillation import Frames
from colld_fairseq.criterions.feature_regression import FeatureRegressionConfig, FeatureRegressionCriterion
from colld_fairseq.criterions.logs import sum_logs
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.discriminative import cosine_logits, discriminative_loss
from colld_fairseq.losses.regression import regression_loss
from colld_fairseq.modules.cpu import plain_operators
from colld_fairseq.modules.lengths import lengths_to_padding_mask
from colld_fairseq.numbers import NOT_NEGATIVE, POSITIVE, option


@dataclass
class HubertDistillationConfig(FeatureRegressionConfig):
    discriminative_weight: float = option(
        1.0, "weight of the discriminative term, of students with --code-head (the authors: 1)", NOT_NEGATIVE
    )
    discriminative_target: ChoiceEnum(["soft", "hard"]) = option(
        "soft", "the teacher's distribution over its code classes (KL), or its best class"
    )
    teacher_temp: float = option(
        0.1, "temperature of the teacher's code logits (HuBERT and the authors: 0.1)", POSITIVE
    )
    student_temp: float = option(1.0, "temperature of the student's (the authors: none, that is 1, or 0.1)", POSITIVE)
    front_end_weight: float = option(1.0, "weight of the front-end's L1 in the first --front-end-updates", NOT_NEGATIVE)
    pad_frames: ChoiceEnum(["exclude", "include"]) = option(
        "exclude", "include: padding counts in all means, as in the authors' code; not with --teacher-cache"
    )


@register_criterion("hubert_distillation", dataclass=HubertDistillationConfig)
class HubertDistillationCriterion(FeatureRegressionCriterion):
    cfg: HubertDistillationConfig
    logged_terms = (*FeatureRegressionCriterion.logged_terms, "kl", "cross_entropy", "front_end")

    def __init__(self, cfg: HubertDistillationConfig, task) -> None:
        super().__init__(cfg, task)
        self.keep_padding = cfg.pad_frames == "include"
        if self.keep_padding and task.teachers.caches:
            raise ConfigError("--pad-frames include: a cache has no features of padding; leave out --teacher-cache")

    def check_heads(self, student) -> None:
        has_codes = student.code_head != "none"
        if has_codes and not self.cfg.discriminative_weight:
            raise ConfigError("--discriminative-weight 0 leaves the code head untrained: give --code-head none")
        if not (has_codes or any(self.regression_weights.values())):
            raise ConfigError("every weight of the loss is 0: give --l1-weight a value, or the student a --code-head")

    def forward(self, model, sample: Dict, reduce: bool = True):
        with plain_operators() if self.keep_padding else nullcontext():  # the fast ones leave padded frames out
            if self.training and model.num_updates < model.front_end_updates:
                return self.adapt_front_end(model, sample)
            return super().forward(model, sample, reduce)

    def check_distributed(self, model) -> None:
        super().check_distributed(model)
        finds_unused = getattr(model, "find_unused_parameters", None)
        if finds_unused is False and model.front_end_updates:
            raise ConfigError("--front-end-updates: give --find-unused-parameters or --ddp-backend legacy_ddp as well")
        if finds_unused is not None and not any(self.regression_weights.values()):
            raise ConfigError("heads without a regression term get no gradient: give --ddp-backend legacy_ddp")

    def adapt_front_end(self, model, sample: Dict):
        self.check_distributed(model)
        output = model(**sample["net_input"], front_end_only=True)
        ((features, lengths),) = self.teacher_features(model, sample, output, {}, front_end_only=True).values()
        valid = ~lengths_to_padding_mask(lengths)
        distance = self.front_end_distance(output.front_end, features, valid)
        loss, frames = self.cfg.front_end_weight * distance, valid.sum()
        return loss, frames, self.log(sample, loss, frames, {"front_end": distance}, frames, frames)

    def front_end_distance(self, prediction: Tensor, features: Dict[int, Tensor], mask: Tensor) -> Tensor:
        prediction = prediction[:, : mask.size(1)]
        return regression_loss(prediction, features[0], mask, l1=1.0, log_sigmoid_cosine=0.0).loss_sum

    def teacher_features(self, model, sample: Dict, output, drawn: Dict[str, Tensor], **how: bool):
        if self.keep_padding:
            how["keep_padding"] = True
        return super().teacher_features(model, sample, output, drawn, **how)

    def compute_loss(self, frames: Frames):
        mask = self.counted(frames)
        loss, log = 0.0, {}
        if any(self.regression_weights.values()):
            loss, _, log = self.regression(frames, mask)
        if frames.output.code_output is not None:
            term = self.discriminative(frames, mask)
            loss = loss + self.cfg.discriminative_weight * term.loss_sum
            log["kl" if self.cfg.discriminative_target == "soft" else "cross_entropy"] = term.loss_sum
            log["agree"] = term.agree
        if frames.output.front_end is not None:
            log["front_end"] = self.front_end_distance(frames.output.front_end, frames.features, mask)
        return loss, mask.sum(), log

    def discriminative(self, frames: Frames, mask: Tensor):
        """The teacher's codes are of its features as they are, whatever the regression's target_norm."""
        teacher = self.task.code_logits(frames.features, self.cfg.teacher_temp)
        output = frames.output.code_output[:, : mask.size(1)]
        if self.task.student.code_head == "cosine":
            student = cosine_logits(output, self.task.teacher_codes.embeddings, self.cfg.student_temp)
        else:
            student = output.float() / self.cfg.student_temp
        return discriminative_loss(student, teacher, mask, hard=self.cfg.discriminative_target == "hard")

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        super().reduce_metrics(logging_outputs)
        totals = sum_logs(logging_outputs)
        if "agree" in totals:
            frames = max(totals["sample_size"], 1)
            metrics.log_scalar("agreement", 100 * totals["agree"] / frames, frames, round=2)  # % of frames
