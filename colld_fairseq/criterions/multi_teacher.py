"""Criterion `multi_teacher`: one student learns the features of several teachers (Yang et al., 2303.10917, stage 1).

    l_k = sum_p w_kp / F * sum_t [ a |p_kpt - z_kpt|_1 / D_k + ... ]      the terms of `feature_regression`; L1 alone
                                                                        unless given otherwise
    sum        loss = sum_k lambda_k l_k                   a head for every teacher and layer pair
    random     loss = l_k, k drawn for each utterance with probability lambda_k; only that teacher runs on it
    average    loss = l with z = sum_k lambda_k z_k        one head for all teachers' p-th pairs

lambda_k are --teacher-weights, scaled to sum 1; --balance-updates first divides each l_k by its own running mean, and
--target-norm may differ between teachers (`several_teachers`, with what is logged). An utterance has the frames that
the student shares with all its teachers. Validation of `random` is its expectation, the loss of `sum`. With
--target-shift s the student's frame t + s predicts the teacher's frame t, which gives a streaming student s frames of
look-ahead.

Learnt frame adapters (--frame-rule concat_tanh) add to the training loss how badly they restore the teacher's frames;
that reaches nothing but the adapters.
"""

from dataclasses import dataclass

from fairseq.criterions import register_criterion

from colld_fairseq.criterions.feature_regression import FeatureRegressionConfig, FeatureRegressionCriterion
from colld_fairseq.criterions.several_teachers import SeveralTeachersConfig, SeveralTeachersCriterion
from colld_fairseq.numbers import NOT_NEGATIVE, option


@dataclass
class MultiTeacherConfig(SeveralTeachersConfig, FeatureRegressionConfig):
    log_sigmoid_cosine_weight: float = option(0.0, "weight of -log sigmoid(cos)", NOT_NEGATIVE)


@register_criterion("multi_teacher", dataclass=MultiTeacherConfig)
class MultiTeacherCriterion(SeveralTeachersCriterion, FeatureRegressionCriterion):
    cfg: MultiTeacherConfig
