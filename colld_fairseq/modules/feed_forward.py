"""Position-wise feed-forward network and the activation functions an encoder may name."""

from typing import Callable, Dict

import torch.nn.functional as F
from torch import Tensor, nn

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.encoder_config import EncoderConfig

ACTIVATIONS: Dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu}


def get_activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation called `name`; ConfigError lists the known names otherwise."""
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation={name!r} is not known; choose one of {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class FeedForward(nn.Module):
    """`linear_out(dropout(activation(linear_in(x))))` on [B, T, D]; no norm, residual or output dropout."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.linear_in = nn.Linear(config.embed_dim, config.ffn_dim)
        self.linear_out = nn.Linear(config.ffn_dim, config.embed_dim)
        self.activation = get_activation(config.activation)
        self.activation_dropout = nn.Dropout(config.activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_out(self.activation_dropout(self.activation(self.linear_in(x))))
