"""Criterion `multi_codebook`: the student tells the indexes that a teacher's frames have in codebooks (MVQ).

    l_k = sum_p w_kp / F * sum_t 1/C sum_c -log softmax(a_kpt,c)[i_kt,c]

over the F frames that count (all, or the masked ones); i: indexes of teacher k in the C codebooks of
--teacher-codebooks, a: logits of the head of layer pair p. A student of half the teacher's frame rate tells the indexes
of two frames side by side: C is then twice the number of codebooks. Several teachers: as in `multi_teacher`, sum or
random; balancing, shares and linear CKA (with the features that the indexes stand for): `several_teachers`.

Sources: MVQ-KD, 2211.00508; masked: SPEAR, 2510.25955.
"""

from dataclasses import dataclass
from typing import List

from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from torch import Tensor

from colld_fairseq.criterions.distillation import Frames
from colld_fairseq.criterions.logs import sum_logs
from colld_fairseq.criterions.several_teachers import SeveralTeachersConfig, SeveralTeachersCriterion
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.codebooks import codebook_loss
from colld_fairseq.numbers import option


@dataclass
class MultiCodebookConfig(SeveralTeachersConfig):
    codebook_frames: ChoiceEnum(["all", "masked"]) = option(
        "all", "frames whose indexes are predicted (MVQ-KD: all; SPEAR: masked)"
    )


@register_criterion("multi_codebook", dataclass=MultiCodebookConfig)
class MultiCodebookCriterion(SeveralTeachersCriterion):
    cfg: MultiCodebookConfig
    logged_terms = (*SeveralTeachersCriterion.logged_terms, "cross_entropy")
    of_codebooks = True

    def __init__(self, cfg: MultiCodebookConfig, task) -> None:
        super().__init__(cfg, task)
        if task.combination == "average":
            raise ConfigError("--criterion multi_codebook: indexes have no mean; take --teacher-combination sum")
        if set(self.target_norms.values()) != {"none"}:
            raise ConfigError("--criterion multi_codebook: leave out --target-norm; codebooks have a normalization")

    def compute_loss(self, frames: Frames):
        mask = frames.valid if self.cfg.codebook_frames == "all" else frames.masked
        loss, agree = 0.0, 0.0
        for logits, indexes, weight in zip(frames.predictions, frames.targets, frames.weights):
            term = codebook_loss(logits, indexes, mask)
            loss = loss + weight * term.loss_sum
            agree = agree + weight * term.agree
        return loss, mask.sum(), {"cross_entropy": loss, "agree": agree / (sum(frames.weights) or 1)}

    def cka_targets(self, name: str, frames: Frames) -> List[Tensor]:
        teacher = self.task.teachers[name]
        groups = (indexes.unflatten(-1, (-1, teacher.quantizer.header.num_codebooks)) for indexes in frames.targets)
        return [teacher.decoded(indexes).flatten(-2) for indexes in groups]

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        super().reduce_metrics(logging_outputs)
        totals = sum_logs(logging_outputs)
        frames = max(totals["sample_size"], 1)
        metrics.log_scalar("agreement", 100 * totals["agree"] / frames, frames, round=2)  # % of indexes
