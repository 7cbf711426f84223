"""What CTC learns from a mode with full context beside the text: `--ctc-kd` of criterions with a CTC layer.

    loss = ... + lambda * mean over frames of KL(full context || streaming), within a delay of D frames
                                                           lambda = --ctc-kd-weight, D = --ctc-kd-delay

`self`: of the student itself, whose full-context mode is run on the same batch, in evaluation mode and without
gradients, while its streaming mode, with the chunk drawn for the batch, is trained. The full-context mode is trained
where `full` is drawn from --chunk-sizes. `teacher`: of --teacher-ctc, a trained model with the same vocabulary and
frame rate. For the definition see `losses.ctc_distillation`.
"""

from dataclasses import dataclass
from typing import Any, Dict, Tuple

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from torch import Tensor

from colld_fairseq.compat import unwrapped
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.ctc_distillation import CHOICES, delayed_divergence
from colld_fairseq.modules.whole_context import whole_context
from colld_fairseq.numbers import COUNT_OR_NONE, NOT_NEGATIVE, option
from colld_fairseq.teachers.alignment import check_equal_rate


@dataclass
class DelayedKdConfig(FairseqDataclass):
    ctc_kd: ChoiceEnum(["none", "self", "teacher"]) = option(
        "none",
        "whose posteriors the CTC layer of a streaming student learns: its own full-context mode's, or --teacher-ctc's",
    )
    ctc_kd_weight: float = option(
        1.0, "weight of that mean per frame beside the losses per token (our choice)", NOT_NEGATIVE
    )
    ctc_kd_delay: int = option(
        4, "student frames by which it may be later at no cost (our choice; at 25 Hz 160 ms)", COUNT_OR_NONE
    )
    ctc_kd_choice: ChoiceEnum(list(CHOICES)) = option(
        "frame", "what chooses the best suited delay for itself (our choice): frame, or utterance"
    )


class DelayedKd:
    """The distillation of one criterion's CTC layer; made where `--ctc-kd` is not none."""

    def __init__(self, cfg: DelayedKdConfig, task) -> None:
        """ConfigError for a model without a CTC layer, where the task has built one."""
        self.cfg, self.task = cfg, task
        if not task.has_ctc:
            raise ConfigError("--ctc-kd: the model has no CTC layer (of a transducer: --auxiliary-ctc)")
        if cfg.ctc_kd == "teacher":
            task.load_teacher_ctc()

    def __call__(self, model, output: Dict[str, Tensor], sample: Dict, log: Dict[str, Any]) -> Tensor:
        """The weighted mean per frame of a batch, noted in `log`. ConfigError for a teacher at another frame rate."""
        lengths = output["ctc_lengths"]
        targets, target_lengths = self.targets(unwrapped(model), sample)
        check_equal_rate(lengths, target_lengths, sample["utt_id"], "CTC teacher")
        choice = self.cfg.ctc_kd_delay, str(self.cfg.ctc_kd_choice)
        losses, counts = delayed_divergence(output["ctc_logits"], targets, lengths, target_lengths, *choice)
        loss, frames = losses.sum(), int(counts.sum())
        log.update(ctc_kd_loss=loss.detach(), ctc_kd_frames=frames)
        return self.cfg.ctc_kd_weight * loss / max(frames, 1)

    def targets(self, model, sample: Dict) -> Tuple[Tensor, Tensor]:
        """Log-probabilities [B, T, V] and lengths [B] of the mode with full context. ConfigError for a model that has
        no other mode in training (`adapted_ctc`)."""
        if self.cfg.ctc_kd == "teacher":
            return self.task.teacher_ctc(**sample["teacher_input"])
        if model.training and not model.encoder.training:
            raise ConfigError(
                "--ctc-kd self: this model's encoder stays as it is, in the mode that it would learn from: leave it out"
            )
        net_input = sample["net_input"]
        with whole_context(model, model.encoder.student):
            return model.get_ctc_log_probs(net_input["src_tokens"], net_input["src_lengths"])
