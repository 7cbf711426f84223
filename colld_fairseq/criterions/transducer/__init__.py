"""Criterion `transducer`: the transducer loss, and what may be trained beside it.

    loss = transducer + w * CTC + lambda * KD        (w = --ctc-weight, as in ESPnet's transducers)

- CTC on the encoder, where the model has an auxiliary CTC layer; each loss is a mean per token of its own targets;
- with the model's --prune-range the joiner sees some nodes of a frame only, which a simple joiner chooses (`pruned`);
- with --kd the student learns the distributions of another transducer, or of its own full-context mode, too
  (`distillation`), with --ctc-kd its CTC layer the posteriors of such a mode (`delayed`);
- with --logits-budget-mb the joiner is part of the losses, which never hold the logits of a batch;
- of utterances with an n-best list (--nbest-targets) the loss is the sum over its entries, by their weights.

The target's language tag, which is given and not predicted, and the end of sentence, which the last frame's blank
stands for, carry no loss.
"""

from dataclasses import dataclass
from typing import Dict, Optional, Tuple

from fairseq.criterions import register_criterion
from torch import Tensor

from colld_fairseq.compat import unwrapped
from colld_fairseq.criterions.delayed import DelayedKdConfig
from colld_fairseq.criterions.logs import log_means, sum_logs
from colld_fairseq.criterions.recognition import RecognitionCriterion, check_unused_parameters
from colld_fairseq.criterions.transducer.distillation import (
    Distillation,
    TransducerKdConfig,
    check_options,
    own_lattice,
)
from colld_fairseq.criterions.transducer.pruned import PrunedRange, PrunedTrainingConfig, warmup_weights
from colld_fairseq.criterions.transducer.targets import TargetSequences, target_sequences
from colld_fairseq.criterions.unused_options import tell_unused
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.transducer import TransducerOutput, transducer_loss
from colld_fairseq.losses.transducer_pruned import pruned_transducer_loss
from colld_fairseq.losses.transducer_tiled import tiled_transducer_loss
from colld_fairseq.numbers import NOT_NEGATIVE, option


@dataclass
class TransducerConfig(PrunedTrainingConfig, TransducerKdConfig, DelayedKdConfig):
    ctc_weight: float = option(0.3, "weight of an auxiliary CTC layer's loss (ESPnet: 0.3)", NOT_NEGATIVE)
    fastemit_lambda: float = option(
        0.0, "FastEmit: factor 1 + lambda on the gradient of labels, for early ones (0.01)", NOT_NEGATIVE
    )
    delay_penalty: float = option(
        0.0, "taken from ln p of a label for every frame it comes later (k2: 0.0015-0.01)", NOT_NEGATIVE
    )
    logits_budget_mb: float = option(
        0.0,
        "memory for the joiner's logits, in MB: losses and their gradients are computed in tiles that fit into it, the"
        " same up to rounding; for long utterances and large vocabularies (64; on a GPU more); 0 = all logits of a"
        " batch at once",
        NOT_NEGATIVE,
    )


@register_criterion("transducer", dataclass=TransducerConfig)
class TransducerCriterion(RecognitionCriterion):
    logged_terms = ("loss", "transducer_loss", "simple_loss")
    reads_nbest = True

    def __init__(self, cfg: TransducerConfig, task) -> None:
        super().__init__(cfg, task)
        check_options(cfg)
        tell_unused(cfg, TransducerKdConfig, "kd")
        if cfg.kd != "none" and cfg.kd_from == "teacher":
            task.load_teacher_transducer()

    def forward(self, model, sample: Dict, reduce: bool = True):
        """Returns (loss summed over target tokens, target tokens, logging output)."""
        if self.training:
            check_unused_parameters(model)
        sequences = target_sequences(sample, self.task.prefix_size)
        pruned_range, distillation = self.pruned_range(model, sequences), self.distillation(model, sample, sequences)
        nodes = None if distillation is None else distillation.nodes
        asked = dict(choose_range=pruned_range, nodes=nodes, keep_parts=self.cfg.logits_budget_mb > 0)
        output = model(**{**sample["net_input"], **sequences.inputs}, **asked)
        transducer = self.transducer_loss(model, output, sequences, distillation)
        kept = output["lengths"] > 0
        weights, counted = sequences.counting(kept.masked_scatter(kept, transducer.counted))
        loss = (weights[kept] * transducer.losses).sum()
        log = dict(transducer_loss=loss.detach(), no_path=len(kept) - int(transducer.count))
        labels = (sample["target_lengths"] - self.task.prefix_size - 1).clamp_min(1)  # an empty target counts as one
        tokens = int(labels[counted.to(labels.device)].sum())
        if pruned_range is not None:
            simple = (weights[kept] * pruned_range.simple.losses).sum()
            simple_weight, pruned_weight = self.pruned_weights(model)
            log["simple_loss"] = simple.detach()
            loss = simple_weight * simple + pruned_weight * loss
        if distillation is not None:
            kd, count = ((weights * value).sum() for value in distillation.losses(output, transducer))
            log.update(kd_loss=kd.detach(), kd_nodes=count)
            per_node = tokens / count.clamp_min(1e-6) if self.cfg.kd_mean == "node" else 1.0
            loss = loss + self.cfg.kd_weight * per_node * kd
        if "ctc_logits" in output and self.cfg.ctc_weight:
            ctc = self.ctc(output, sample, log)
            # The transducer takes CTC's share where no utterance has enough frames for CTC.
            share = ctc.loss_sum * tokens / ctc.tokens if ctc.tokens else loss
            loss = loss + self.cfg.ctc_weight * share
        if self.delayed_kd is not None:
            loss = loss + tokens * self.delayed_kd(model, output, sample, log)
        return loss, tokens, self.complete(log, sample, loss, tokens)

    def options(self, model) -> Dict:
        """What full, simple and pruned loss share."""
        return dict(
            blank=self.blank,
            topology=model.topology,
            fastemit_lambda=self.cfg.fastemit_lambda,
            delay_penalty=self.cfg.delay_penalty,
            zero_infinity=True,
        )

    def pruned_range(self, model, sequences: TargetSequences) -> Optional[PrunedRange]:
        """What chooses the nodes of a batch that the joiner sees; None for all. ConfigError for a pruned range beside
        a budget for the logits of all nodes."""
        if not model.prune_range:
            return None
        if self.cfg.logits_budget_mb:
            raise ConfigError(
                f"--logits-budget-mb {self.cfg.logits_budget_mb:g}: is for the full lattice, this model has"
                f" --prune-range {model.prune_range}; leave out one of them"
            )
        return PrunedRange(sequences, model.prune_range, self.cfg.simple_lm_scale, **self.options(model))

    def distillation(self, model, sample: Dict, sequences: TargetSequences) -> Optional[Distillation]:
        """What is learned from a transducer with more context in this batch, if anything is."""
        if self.cfg.kd == "none":
            return None
        if self.cfg.kd_from == "self":
            lattice = own_lattice(unwrapped(model), sample, sequences)
        else:
            lattice = self.task.teacher_lattice(sample, **sequences.inputs)
        return Distillation(self.cfg, lattice, sequences, self.blank, self.cfg.logits_budget_mb)

    def pruned_weights(self, model) -> Tuple[float, float]:
        """Of the simple and the pruned loss; in validation those after the warm-up, so that its losses compare."""
        warmup = self.cfg.prune_warmup_updates if self.training else 0
        return warmup_weights(model.num_updates, warmup, self.cfg.simple_weight)

    def transducer_loss(
        self, model, output: Dict[str, Tensor], sequences: TargetSequences, distillation: Optional[Distillation]
    ) -> TransducerOutput:
        """The loss of the sequences whose utterances have frames; in tiles together with the lattice's distillation.

        Those without an alignment, of no frame at all or (modified) of fewer frames than labels, contribute nothing
        and do not count.
        """
        kept = output["lengths"] > 0
        names = sequences.names_of(kept)
        arguments = sequences.labels[kept], output["lengths"][kept], sequences.label_lengths[kept]
        options = dict(self.options(model), utterance_ids=names)
        if "parts" in output:
            parts = output["parts"] if len(names) == len(kept) else output["parts"].select(kept)
            teacher = None if distillation is None else distillation.lattice_teacher(kept)
            budget = self.cfg.logits_budget_mb
            return tiled_transducer_loss(parts, *arguments, budget_mb=budget, teacher=teacher, **options)
        options["overwrite_logits"] = True
        if "ranges" not in output:
            return transducer_loss(output["logits"], *arguments, **options)
        lattice = output["logits"], output["ranges"]
        if len(names) < len(kept):
            lattice = [tensor[kept] for tensor in lattice]
        return pruned_transducer_loss(*lattice, *arguments, **options)

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        super().reduce_metrics(logging_outputs)
        totals = sum_logs(logging_outputs)
        if "kd_nodes" in totals:
            log_means(totals, "kd_nodes", "kd_loss")
