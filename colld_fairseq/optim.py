"""Adam as one kernel: fairseq's own, where NVIDIA's apex is not installed, passes over every weight eight times."""

from dataclasses import dataclass, field
from typing import Any, Dict, List

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II


@dataclass
class FusedAdamConfig(FairseqDataclass):
    """The options of fairseq's `adam`, under its names."""

    adam_betas: Any = field(default="(0.9, 0.999)", metadata={"help": "decay of the two running means"})
    adam_eps: float = field(default=1e-8, metadata={"help": "added to the root of the second running mean"})
    weight_decay: float = field(default=0.0, metadata={"help": "decoupled from the gradient, times the learning rate"})
    lr: List[float] = II("optimization.lr")


@register_optimizer("fused_adam", dataclass=FusedAdamConfig)
class FusedAdam(FairseqOptimizer):
    """torch's fused AdamW. Updates are those of fairseq's `adam`, but that `adam_eps` is added after the correction of
    the bias, as in the paper (https://arxiv.org/abs/1412.6980), and not before it."""

    def __init__(self, cfg: FusedAdamConfig, params) -> None:
        super().__init__(cfg)
        self._optimizer = torch.optim.AdamW(params, fused=True, **self.optimizer_config)

    @property
    def optimizer_config(self) -> Dict[str, Any]:
        """What a resumed run takes from its own options and not from the checkpoint."""
        betas = self.cfg.adam_betas
        betas = [float(part) for part in betas.strip("()[] ").split(",")] if isinstance(betas, str) else betas
        lr = self.cfg.lr if isinstance(self.cfg.lr, (int, float)) else self.cfg.lr[0]
        return {"lr": lr, "betas": tuple(betas), "eps": self.cfg.adam_eps, "weight_decay": self.cfg.weight_decay}

    @property
    def supports_flat_params(self) -> bool:
        return True
