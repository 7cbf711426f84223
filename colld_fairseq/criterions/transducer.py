"""Criterion `transducer`: the transducer loss, and what may be trained beside it.

    loss = transducer + w * CTC + lambda * KD        (w = --ctc-weight, as in ESPnet's transducers)

- CTC on the encoder, where the model has an auxiliary CTC layer; each loss is a mean per token of its own text;
- with --prune-range the joiner runs on a band of the lattice only, which a simple joiner finds (`transducer_band`);
- with --kd the student learns the distributions of another transducer, too (`transducer_kd`);
- of clips with an n-best list (--nbest-targets) the loss is the sum over its texts, by their weights.

The target's language tag, which is given and not predicted, and the end of sentence, which the last frame's blank
stands for, carry no loss.
"""

from dataclasses import dataclass, field
from typing import Dict, Optional, Tuple

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.logging import metrics
from torch import Tensor

from colld_fairseq.criterions.batches import Texts, texts_of
from colld_fairseq.criterions.distributed import check_unused_parameters
from colld_fairseq.criterions.logs import sum_logs
from colld_fairseq.criterions.transducer_band import Band, PrunedTrainingConfig, warmup_weights
from colld_fairseq.criterions.transducer_kd import Distillation, TransducerKdConfig, check_options
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.ctc import ctc_loss
from colld_fairseq.losses.transducer import TransducerOutput, transducer_loss
from colld_fairseq.losses.transducer_pruned import pruned_transducer_loss
from colld_fairseq.numbers import NOT_NEGATIVE


@dataclass
class TransducerConfig(PrunedTrainingConfig, TransducerKdConfig):
    ctc_weight: float = field(
        default=0.3, metadata=NOT_NEGATIVE.help("weight of an auxiliary CTC layer's loss (ESPnet: 0.3)")
    )
    fastemit_lambda: float = field(
        default=0.0,
        metadata=NOT_NEGATIVE.help("FastEmit: factor 1 + lambda on the gradient of labels, for early ones (0.01)"),
    )
    delay_penalty: float = field(
        default=0.0,
        metadata=NOT_NEGATIVE.help("taken from ln p of a label for every frame it comes later (k2: 0.0015-0.01)"),
    )


@register_criterion("transducer", dataclass=TransducerConfig)
class TransducerCriterion(FairseqCriterion):
    def __init__(self, cfg: TransducerConfig, task) -> None:
        super().__init__(task)
        if cfg.prune_range == 1:
            raise ConfigError(f"--prune-range {cfg.prune_range}: a band needs at least 2 nodes a frame; 0 = no band")
        check_options(cfg)
        if cfg.kd != "none":
            task.load_teacher_transducer()
        self.cfg = cfg
        self.blank, self.pad = task.target_dictionary.bos(), task.target_dictionary.pad()

    @classmethod
    def build_criterion(cls, cfg, task):
        return cls(cfg, task)

    def forward(self, model, sample: Dict, reduce: bool = True):
        """Returns (loss summed over target tokens, target tokens, logging output)."""
        if self.training:
            check_unused_parameters(model)
        texts = texts_of(sample, self.task.prefix_size)
        band, distillation = self.band(model, texts), self.distillation(sample, texts)
        nodes = None if distillation is None else distillation.nodes
        output = model(**{**sample["net_input"], **texts.inputs}, choose_band=band, nodes=nodes)
        heard = output["lengths"] > 0
        found = self.transducer_loss(model, output, texts, heard)
        weights = texts.weights[heard]
        loss = (weights * found.losses).sum()
        log = dict(transducer_loss=loss.detach(), no_path=len(heard) - int(found.count))
        tokens = int(sample["target_lengths"].sum()) - len(sample["target_lengths"]) * (self.task.prefix_size + 1)
        if band is not None:
            simple, (of_simple, of_pruned) = (weights * band.simple.losses).sum(), self.pruned_weights(model)
            log["simple_loss"] = simple.detach()
            loss = of_simple * simple + of_pruned * loss
        if distillation is not None:
            kd, count = ((texts.weights * value).sum() for value in distillation.losses(output, found))
            log.update(kd_loss=kd.detach(), kd_nodes=count)
            per_node = tokens / count.clamp_min(1e-6) if self.cfg.kd_mean == "node" else 1.0
            loss = loss + self.cfg.kd_weight * per_node * kd
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

    def options(self, model) -> Dict:
        """What full, simple and pruned loss share."""
        return dict(
            blank=self.blank,
            topology=model.topology,
            fastemit_lambda=self.cfg.fastemit_lambda,
            delay_penalty=self.cfg.delay_penalty,
            zero_infinity=True,
        )

    def band(self, model, texts: Texts) -> Optional[Band]:
        """What chooses the band of a batch; None for the full lattice."""
        if (model.simple_joiner is not None) != (self.cfg.prune_range > 0):
            raise ConfigError("--prune-range (criterion) and --simple-joiner (model) need each other")
        if not self.cfg.prune_range:
            return None
        return Band(texts, self.cfg.prune_range, self.cfg.simple_lm_scale, **self.options(model))

    def distillation(self, sample: Dict, texts: Texts) -> Optional[Distillation]:
        """What is learnt from the teacher transducer in this batch, if anything is."""
        if self.cfg.kd == "none":
            return None
        lattice = self.task.teacher_lattice(sample, **texts.inputs)
        return Distillation(self.cfg, lattice, texts, self.blank)

    def pruned_weights(self, model) -> Tuple[float, float]:
        """Of the simple and the pruned loss; in validation those after the warm-up, so that its losses compare."""
        warmup = self.cfg.prune_warmup_updates if self.training else 0
        return warmup_weights(model.num_updates, warmup, self.cfg.simple_weight)

    def transducer_loss(self, model, output: Dict[str, Tensor], texts: Texts, heard: Tensor) -> TransducerOutput:
        """The loss of the texts whose clips have frames, bool [M].

        Those without an alignment, of no frame at all or (modified) of fewer frames than labels, contribute nothing
        and are not in its count.
        """
        kept = heard.tolist()
        arguments = texts.labels[heard], output["lengths"][heard], texts.label_lengths[heard]
        options = dict(
            self.options(model),
            utterance_ids=[name for name, keep in zip(texts.names, kept) if keep],
            overwrite_logits=True,
        )
        if "ranges" not in output:
            return transducer_loss(output["logits"], *arguments, **options)
        lattice = output["logits"], output["ranges"]
        if not all(kept):
            lattice = [tensor[heard] for tensor in lattice]
        return pruned_transducer_loss(*lattice, *arguments, **options)

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        totals = sum_logs(logging_outputs)
        tokens = max(totals["sample_size"], 1)
        metrics.log_scalar("loss", totals["loss"] / tokens, tokens, round=4)
        metrics.log_scalar("transducer_loss", totals["transducer_loss"] / tokens, tokens, round=4)
        metrics.log_scalar_sum("no_path", int(totals["no_path"]))
        if "simple_loss" in totals:
            metrics.log_scalar("simple_loss", totals["simple_loss"] / tokens, tokens, round=4)
        if "kd_nodes" in totals:
            nodes = max(totals["kd_nodes"], 1e-6)
            metrics.log_scalar("kd_loss", totals["kd_loss"] / nodes, nodes, round=4)
        if "ctc_loss" in totals:
            ctc_tokens = max(totals["ctc_tokens"], 1)
            metrics.log_scalar("ctc_loss", totals["ctc_loss"] / ctc_tokens, ctc_tokens, round=4)
            metrics.log_scalar_sum("ctc_too_short", int(totals["ctc_too_short"]))
        metrics.log_speed("audio_x", totals["audio_seconds"], priority=85, round=1)  # seconds of audio a second

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
