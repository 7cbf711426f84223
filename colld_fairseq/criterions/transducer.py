"""Criterion `transducer`: the transducer loss, and CTC on the encoder where the model has an auxiliary CTC layer.

    loss = transducer + w * CTC        (w = --ctc-weight; as in ESPnet's transducers)

each a mean per token of its own text. With --prune-range the joiner runs on a band of the lattice only, which a simple
joiner finds; its loss is trained beside it (`transducer_band`). The target's language tag, which is given and not predicted, and the end of
sentence, which the last frame's blank stands for, carry no loss.
"""

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from colld_fairseq.criterions.batches import sum_logs
from colld_fairseq.criterions.transducer_band import Band, warmup_weights
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.ctc import ctc_loss
from colld_fairseq.losses.transducer import TransducerOutput, transducer_loss
from colld_fairseq.losses.transducer_pruned import pruned_transducer_loss


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
    prune_range: int = field(
        default=0,
        metadata={"help": "labels a frame that a model's --simple-joiner leaves to the joiner (k2: 5); 0 = all"},
    )
    simple_weight: float = field(default=0.5, metadata={"help": "weight of the simple joiner's loss (icefall: 0.5)"})
    prune_warmup_updates: int = field(
        default=2000,
        metadata={"help": "updates from weights 1 and 0.1 of simple and pruned loss to --simple-weight and 1 (icefall)"},
    )
    simple_lm_scale: float = field(
        default=0.25, metadata={"help": "share of its predictor alone in the simple joiner's ln p (icefall: 0.25)"}
    )


@register_criterion("transducer", dataclass=TransducerConfig)
class TransducerCriterion(FairseqCriterion):
    def __init__(self, cfg: TransducerConfig, task) -> None:
        super().__init__(task)
        if cfg.prune_range < 0 or cfg.prune_range == 1:
            raise ConfigError(f"--prune-range {cfg.prune_range}: a band needs at least 2 nodes a frame; 0 = no band")
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
        band = self.band(model, labels, label_lengths, sample["utt_id"])
        output = model(**sample["net_input"], label_lengths=label_lengths, choose_band=band)
        found = self.transducer_loss(output, labels, label_lengths, sample["utt_id"])
        loss, log = found.loss_sum, dict(transducer_loss=found.loss_sum.detach())
        log["no_path"] = len(labels) - int(found.count)
        if band is not None:
            weights = self.pruned_weights(model)
            loss = weights[0] * band.simple.loss_sum + weights[1] * loss
            log["simple_loss"] = band.simple.loss_sum.detach()
        tokens = int(label_lengths.sum())
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

    @property
    def options(self) -> Dict:
        """What full, simple and pruned loss share."""
        return dict(
            blank=self.blank,
            topology=str(self.cfg.topology),
            fastemit_lambda=self.cfg.fastemit_lambda,
            delay_penalty=self.cfg.delay_penalty,
            zero_infinity=True,
        )

    def band(self, model, labels: Tensor, label_lengths: Tensor, names: List[str]) -> Optional[Band]:
        """What chooses the band of a batch; None for the full lattice."""
        if (model.simple_joiner is not None) != (self.cfg.prune_range > 0):
            raise ConfigError("--prune-range (criterion) and --simple-joiner (model) need each other")
        if not self.cfg.prune_range:
            return None
        cfg = self.cfg
        return Band(labels, label_lengths, names, cfg.prune_range, cfg.simple_lm_scale, **self.options)

    def pruned_weights(self, model) -> Tuple[float, float]:
        """Of the simple and the pruned loss; in validation those after the warm-up, so that its losses compare."""
        warmup = self.cfg.prune_warmup_updates if self.training else 0
        return warmup_weights(model.num_updates, warmup, self.cfg.simple_weight)

    def transducer_loss(
        self, output: Dict[str, Tensor], labels: Tensor, label_lengths: Tensor, names: List[str]
    ) -> TransducerOutput:
        """The loss of the utterances that have frames.

        Those without an alignment with their text, of no frame at all or (modified) of fewer frames than labels,
        contribute nothing and are not in its count.
        """
        heard = output["lengths"] > 0
        kept = heard.tolist()
        texts = labels[heard], output["lengths"][heard], label_lengths[heard]
        options = dict(
            self.options,
            utterance_ids=[name for name, keep in zip(names, kept) if keep],
            overwrite_logits=True,
        )
        if "ranges" not in output:
            return transducer_loss(output["logits"], *texts, **options)
        lattice = output["logits"], output["ranges"]
        if not all(kept):
            lattice = [tensor[heard] for tensor in lattice]
        return pruned_transducer_loss(*lattice, *texts, **options)

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        scalars = [{name: value for name, value in log.items() if not name.startswith("_")} for log in logging_outputs]
        totals = sum_logs(scalars)
        tokens = max(totals["sample_size"], 1)
        metrics.log_scalar("loss", totals["loss"] / tokens, tokens, round=4)
        metrics.log_scalar("transducer_loss", totals["transducer_loss"] / tokens, tokens, round=4)
        metrics.log_scalar_sum("no_path", int(totals["no_path"]))
        if "simple_loss" in totals:
            metrics.log_scalar("simple_loss", totals["simple_loss"] / tokens, tokens, round=4)
        if "ctc_loss" in totals:
            ctc_tokens = max(totals["ctc_tokens"], 1)
            metrics.log_scalar("ctc_loss", totals["ctc_loss"] / ctc_tokens, ctc_tokens, round=4)
            metrics.log_scalar_sum("ctc_too_short", int(totals["ctc_too_short"]))
        metrics.log_speed("audio_x", totals["audio_seconds"], priority=85, round=1)  # seconds of audio a second

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
