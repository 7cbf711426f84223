"""What criterions of several teachers share: losses of unlike size, shares, and what the student keeps of each teacher.

    loss = sum_k lambda_k l_k / s_k        lambda_k: --teacher-weights, l_k: loss of teacher k; s_k = 1, or with
                                           --balance-updates N the running mean of l_k over N updates (training), l_k of
                                           the first update (validation, so that its losses compare)

The log has of each teacher `loss_NAME`, l_k per frame; `share_NAME`, its share of the loss; and at validation
`cka_NAME`, the linear CKA of what its heads are fed with what they are to predict, mean over the layer pairs.
"""

from dataclasses import dataclass
from typing import Any, Callable, Dict, List

import torch
from fairseq.logging import metrics
from torch import Tensor

from colld_fairseq.criterions.distillation import DistillationConfig, DistillationCriterion, Frames, Loss
from colld_fairseq.criterions.logs import log_means, sum_logs
from colld_fairseq.errors import ConfigError
from colld_fairseq.numbers import COUNT_OR_NONE, option
from colld_fairseq.similarity import cka_of_moments, frame_moments

MOMENTS = "_moments"  # _moments.TEACHER.PAIR.WIDTH of the student's layer, in logging outputs


@dataclass
class SeveralTeachersConfig(DistillationConfig):
    target_shift: int = option(
        0, "student frames by which predictions come after their targets (streaming: > 0)", COUNT_OR_NONE
    )
    balance_updates: int = option(
        0,
        "divide each teacher's loss by its own mean over so many updates (100, say), so that --teacher-weights are"
        " shares of the loss, however large the losses are; 0 = losses as they are",
        COUNT_OR_NONE,
    )


class SeveralTeachersCriterion(DistillationCriterion):
    cfg: SeveralTeachersConfig
    several_teachers = True

    def __init__(self, cfg: SeveralTeachersConfig, task) -> None:
        super().__init__(cfg, task)
        self.target_shift = cfg.target_shift
        if cfg.balance_updates and task.combination == "average":
            raise ConfigError("--balance-updates: --teacher-combination average has one loss; leave one of them out")

    # -- losses of unlike size -----------------------------------------------------------------------------------------
    def loss_scales(self, losses: Dict[str, Loss]) -> Dict[str, float]:
        if not self.cfg.balance_updates:
            return {}
        known = self.task.loss_scales
        if not self.training:
            return known.start
        if set(losses) <= set(known.running):
            return known.running
        return {**means_of_all_workers(losses), **known.running}

    def after_update(self, logging_outputs: List[Dict[str, Any]]) -> None:
        """Takes note of the losses of an update: logging outputs of its batches, of all workers."""
        if self.cfg.balance_updates:
            for name, mean in loss_means(sum_logs(logging_outputs)).items():
                self.task.loss_scales.add(name, mean, self.cfg.balance_updates)

    # -- the log -------------------------------------------------------------------------------------------------------
    def log_teacher(self, name: str, frames: Frames, own: Loss, part: Tensor) -> Dict[str, Tensor]:
        log = {f"loss_{name}": own.loss_sum, f"frames_{name}": own.frames, f"part_{name}": part}
        targets = self.cka_targets(name, frames) if frames.layers else []  # in training there is no need of them
        for pair, (layer, target) in enumerate(zip(frames.layers, targets)):
            log[f"{MOMENTS}.{name}.{pair}.{layer.size(-1)}"] = frame_moments(layer[frames.valid], target[frames.valid])
        return log

    def cka_targets(self, name: str, frames: Frames) -> List[Tensor]:
        """The teacher's side of linear CKA, [B, T, D] for each layer pair."""
        return frames.targets

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        super().reduce_metrics(logging_outputs)
        totals = sum_logs(logging_outputs)
        parts = {name: value for name, value in totals.items() if name.startswith("part_")}
        whole = sum(parts.values())
        for part, value in parts.items():
            name = part.removeprefix("part_")
            if totals[f"frames_{name}"]:  # of a teacher that was drawn
                log_means(totals, f"frames_{name}", f"loss_{name}")
            if whole:
                metrics.log_scalar(f"share_{name}", value / whole, totals["sample_size"], round=3)
        log_cka(logging_outputs)


def loss_means(totals: Dict[str, float]) -> Dict[str, float]:
    """Loss per frame of each teacher that had some, from sums of logging outputs."""
    names = [name.removeprefix("loss_") for name in totals if name.startswith("loss_")]
    return {name: totals[f"loss_{name}"] / totals[f"frames_{name}"] for name in names if totals[f"frames_{name}"]}


def means_of_all_workers(losses: Dict[str, Loss]) -> Dict[str, float]:
    """Loss per frame of each teacher in this batch, over all workers: for the first update, which has nothing else. All
    workers call this, or none."""
    sums = torch.stack([torch.stack([own.loss_sum.detach().double(), own.frames.double()]) for own in losses.values()])
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    return {name: loss / frames for name, (loss, frames) in zip(losses, sums.tolist()) if loss > 0 and frames}


def log_cka(logging_outputs) -> None:
    """`cka_NAME` of each teacher, over all batches and workers of a validation."""
    keys = sorted({key for log in logging_outputs for key in log if key.startswith(MOMENTS)})
    teachers: Dict[str, List[str]] = {}
    for key in keys:
        metrics.log_scalar_sum(key, sum(log[key] for log in logging_outputs if key in log).cpu())
        teachers.setdefault(key.split(".")[1], []).append(key)
    for name, pairs in teachers.items():
        metrics.log_derived(f"cka_{name}", mean_cka(pairs))


def mean_cka(keys: List[str]) -> Callable[[Dict[str, Any]], float]:
    def compute(meters: Dict[str, Any]) -> float:
        values = [cka_of_moments(meters[key].sum, row_width=int(key.rsplit(".", 1)[1])) for key in keys]
        return round(sum(values) / len(values), 4)

    return compute
