"""Criterion `transducer`: the transducer loss, and CTC on the encoder where the model has an auxiliary CTC layer.

    loss = transducer + w * CTC        (w = --ctc-weight; as in ESPnet's transducers)

each a mean per token of its own text. The target's language tag, which is given and not predicted, and the end of
sentence, which the last frame's blank stands for, carry no loss.
"""

from dataclasses import dataclass, field
from typing import Dict

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from colld_fairseq.criterions.batches import sum_logs
from colld_fairseq.losses.ctc import ctc_loss
from colld_fairseq.losses.transducer import transducer_loss


@dataclass
class TransducerConfig(FairseqDataclass):
    ctc_weight: float = field(default=0.3, metadata={"help": "weight of an auxiliary CTC layer's loss (ESPnet: 0.3)"})
    fastemit_lambda: float = field(
        default=0.0, metadata={"help": "FastEmit: factor 1 + lambda on the gradient of labels, for early ones (0.01)"}
    )
    delay_penalty: float = field(
        default=0.0, metadata={"help": "taken from ln p of a label for every frame it comes later (k2: 0.0015-0.01)"}
    )
    topology: ChoiceEnum(["regular", "modified"]) = field(
        default="regular", metadata={"help": "regular, or modified: at most one label a frame"}
    )


@register_criterion("transducer", dataclass=TransducerConfig)
class TransducerCriterion(FairseqCriterion):
    def __init__(self, cfg: TransducerConfig, task) -> None:
        super().__init__(task)
        self.cfg = cfg
        self.blank, self.pad = task.target_dictionary.bos(), task.target_dictionary.pad()

    @classmethod
    def build_criterion(cls, cfg, task):
        return cls(cfg, task)

    def forward(self, model, sample: Dict, reduce: bool = True):
        """Returns (loss summed over target tokens, target tokens, logging output)."""
        given = self.task.prefix_size
        labels = sample["target"][:, given:-1]
        label_lengths = sample["target_lengths"].to(labels.device) - given - 1
        output = model(**sample["net_input"], label_lengths=label_lengths)
        loss, no_path = self.transducer_loss(output, labels, label_lengths, sample["utt_id"])
        tokens = int(label_lengths.sum())
        log = dict(transducer_loss=loss.detach(), no_path=no_path)
        if "ctc_logits" in output and self.cfg.ctc_weight:
            targets, lengths = sample["ctc_target"], sample["ctc_target_lengths"]
            ctc = ctc_loss(output["ctc_logits"], output["ctc_lengths"], targets, lengths, self.blank, self.pad)
            log.update(ctc_loss=ctc.loss_sum.detach(), ctc_tokens=ctc.tokens, ctc_too_short=ctc.too_short)
            loss = loss + self.cfg.ctc_weight * ctc.loss_sum * tokens / max(ctc.tokens, 1)
        log.update(
            loss=loss.detach(),
            sample_size=tokens,
            ntokens=tokens,
            nsentences=sample["nsentences"],
            audio_seconds=sample["audio_seconds"],
        )
        return loss, tokens, log

    def transducer_loss(self, output: Dict[str, Tensor], labels: Tensor, label_lengths: Tensor, names):
        """Loss summed over the batch, and how many clips have no alignment with their text.

        Those, of no frame at all or (modified) of fewer frames than labels, contribute nothing and are counted.
        """
        heard = output["lengths"] > 0
        kept = heard.tolist()
        found = transducer_loss(
            output["logits"],
            labels[heard],
            output["lengths"][heard],
            label_lengths[heard],
            blank=self.blank,
            topology=str(self.cfg.topology),
            fastemit_lambda=self.cfg.fastemit_lambda,
            delay_penalty=self.cfg.delay_penalty,
            zero_infinity=True,
            utterance_ids=[name for name, keep in zip(names, kept) if keep],
            overwrite_logits=True,
        )
        return found.loss_sum, len(kept) - int(found.count)

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        scalars = [{name: value for name, value in log.items() if not name.startswith("_")} for log in logging_outputs]
        totals = sum_logs(scalars)
        tokens = max(totals["sample_size"], 1)
        metrics.log_scalar("loss", totals["loss"] / tokens, tokens, round=4)
        metrics.log_scalar("transducer_loss", totals["transducer_loss"] / tokens, tokens, round=4)
        metrics.log_scalar_sum("no_path", int(totals["no_path"]))
        if "ctc_loss" in totals:
            ctc_tokens = max(totals["ctc_tokens"], 1)
            metrics.log_scalar("ctc_loss", totals["ctc_loss"] / ctc_tokens, ctc_tokens, round=4)
            metrics.log_scalar_sum("ctc_too_short", int(totals["ctc_too_short"]))
        metrics.log_speed("audio_x", totals["audio_seconds"], priority=85, round=1)  # seconds of audio a second

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
