"""Criterion `ctc_attention`: CTC, or CTC and label-smoothed cross-entropy of an attention decoder.

    loss = w * CTC + (1 - w) * cross-entropy        (Watanabe et al. 2017, hybrid CTC/attention; w = --ctc-weight)

each a mean per token of its own text; a model without a decoder is trained with CTC alone. Utterances with too few
frames for an alignment have no part in the CTC mean; where a batch has no others, cross-entropy takes its share. The
target's language tag, which is given and not predicted, carries no loss. With --ctc-kd the CTC layer also learns from a
mode with full context (`delayed`).
"""

from dataclasses import dataclass
from typing import Dict, Optional

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from fairseq.logging import metrics
from torch import Tensor

from colld_fairseq.criterions.delayed import DelayedKdConfig
from colld_fairseq.criterions.logs import sum_logs
from colld_fairseq.criterions.recognition import RecognitionCriterion, check_unused_parameters
from colld_fairseq.errors import ConfigError
from colld_fairseq.numbers import PROBABILITY, SHARE, option

CTC_WEIGHT = 0.3  # beside an attention decoder, as in ESPnet


@dataclass
class CtcAttentionConfig(DelayedKdConfig):
    ctc_weight: Optional[float] = option(
        None,
        "weight of CTC beside an attention decoder; default: 0.3 (ESPnet), or 0 for a model without a CTC layer",
        SHARE,
    )
    label_smoothing: float = option(0.1, "label smoothing of the attention decoder's loss", PROBABILITY)


@register_criterion("ctc_attention", dataclass=CtcAttentionConfig)
class CtcAttentionCriterion(RecognitionCriterion):
    logged_terms = ("loss", "nll_loss")

    def __init__(self, cfg: CtcAttentionConfig, task) -> None:
        super().__init__(cfg, task)
        if cfg.ctc_weight and not task.has_ctc:
            raise ConfigError(
                "the model has no CTC layer, which beside a pretrained decoder is one of --ctc-layer: leave out"
                " --ctc-weight, or give that too"
            )

    def forward(self, model, sample: Dict, reduce: bool = True):
        """Returns (loss summed over target tokens, target tokens, logging output)."""
        if self.training:
            check_unused_parameters(model)
        output, log = model(**sample["net_input"]), {}
        ctc = self.ctc(output, sample, log) if "ctc_logits" in output else None
        if "logits" in output:
            attention, loss, tokens, correct = self.attention_loss(output["logits"], sample["target"])
            if ctc is not None and ctc.tokens:
                weight = CTC_WEIGHT if self.cfg.ctc_weight is None else self.cfg.ctc_weight
                loss = (1 - weight) * loss + weight * ctc.loss_sum * tokens / ctc.tokens
            log.update(nll_loss=attention.detach(), correct=correct)
        else:
            loss, tokens = ctc.loss_sum, ctc.tokens
        if self.delayed_kd is not None:
            loss = loss + tokens * self.delayed_kd(model, output, sample, log)
        return loss, tokens, self.complete(log, sample, loss, tokens)

    def attention_loss(self, logits: Tensor, target: Tensor):
        """Negative log-likelihood, its label-smoothed form (both summed), tokens, correct predictions."""
        skip = self.task.prefix_size
        logits, target = logits[:, skip:], target[:, skip:]
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        smoothed, nll = label_smoothed_nll_loss(
            log_probs.flatten(0, 1), target.flatten(), self.cfg.label_smoothing, ignore_index=self.pad
        )
        counted = target != self.pad
        correct = ((log_probs.argmax(-1) == target) & counted).sum()
        return nll, smoothed, int(counted.sum()), correct

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        super().reduce_metrics(logging_outputs)
        totals = sum_logs(logging_outputs)
        if "correct" in totals:
            tokens = max(totals["sample_size"], 1)
            metrics.log_scalar("token_accuracy", 100 * totals["correct"] / tokens, tokens, round=2)
