"""On which device to compute."""

from typing import Optional

import torch

from colld_fairseq.errors import ConfigError


def pick_device(name: Optional[str] = None) -> str:
    """The device that was asked for; by default cuda where there is one. ConfigError where it is none, or not here."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ConfigError(f"--device {name}: no such device; give cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: torch sees no GPU here; leave the option out (`colld doctor` may say why)")
    return name
