"""What the criterions with targets share: CTC on the encoder, logging, and the demands of several GPUs."""

from typing import Any, Dict

from fairseq.criterions import FairseqCriterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from colld_fairseq.criterions.delayed import DelayedKd, DelayedKdConfig
from colld_fairseq.criterions.logs import log_means, log_speed, sum_logs
from colld_fairseq.criterions.unused_options import tell_unused
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.ctc import CtcOutput, ctc_loss


class RecognitionCriterion(FairseqCriterion):
    """Losses are sums over target tokens, which are the sample size."""

    logged_terms = ("loss",)  # sums over target tokens that are logged as means
    reads_nbest = False  # whether it learns from --nbest-targets

    def __init__(self, cfg: FairseqDataclass, task) -> None:
        super().__init__(task)
        self.cfg = cfg
        tell_unused(cfg, DelayedKdConfig, "ctc_kd")
        self.delayed_kd = None if cfg.ctc_kd == "none" else DelayedKd(cfg, task)
        self.blank, self.pad = task.target_dictionary.bos(), task.target_dictionary.pad()

    @classmethod
    def build_criterion(cls, cfg, task):
        return cls(cfg, task)

    def ctc(self, output: Dict[str, Tensor], sample: Dict, log: Dict[str, Any]) -> CtcOutput:
        """The CTC loss of a batch, noted in `log`."""
        targets, lengths = sample["ctc_target"], sample["ctc_target_lengths"]
        ctc = ctc_loss(output["ctc_logits"], output["ctc_lengths"], targets, lengths, self.blank, self.pad)
        log.update(ctc_loss=ctc.loss_sum.detach(), ctc_tokens=ctc.tokens, ctc_too_short=ctc.too_short)
        return ctc

    @staticmethod
    def complete(log: Dict[str, Any], sample: Dict, loss: Tensor, tokens: int) -> Dict[str, Any]:
        """`log` with what is logged of every batch."""
        return dict(
            log,
            loss=loss.detach(),
            sample_size=tokens,
            ntokens=tokens,
            nsentences=sample["nsentences"],
            audio_seconds=sample["audio_seconds"],
        )

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        totals = sum_logs(logging_outputs)
        log_means(totals, "sample_size", *cls.logged_terms)
        if "ctc_tokens" in totals:
            log_means(totals, "ctc_tokens", "ctc_loss")
        if "ctc_kd_frames" in totals:
            log_means(totals, "ctc_kd_frames", "ctc_kd_loss")
        for name in ("ctc_too_short", "no_path"):
            if name in totals:
                metrics.log_scalar_sum(name, int(totals[name]))
        log_speed(totals)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


def check_unused_parameters(model) -> None:
    """ConfigError before torch's DistributedDataParallel waits for gradients that an encoder does not get: while it is
    frozen, or of the blocks that LayerDrop leaves out."""
    if getattr(model, "find_unused_parameters", None) is not False:  # no such wrapper, or one that looks for them
        return
    remedy = "on several GPUs give --find-unused-parameters or --ddp-backend legacy_ddp as well"
    if model.encoder.freeze_updates:
        raise ConfigError(f"--freeze-encoder-updates {model.encoder.freeze_updates}: {remedy}")
    if getattr(getattr(model, "decoder", None), "freeze_updates", 0):
        raise ConfigError(f"--freeze-decoder-updates {model.decoder.freeze_updates}: {remedy}")
    if model.encoder.config.layerdrop:
        raise ConfigError(f"--encoder-layerdrop {model.encoder.config.layerdrop:g}: {remedy}")
