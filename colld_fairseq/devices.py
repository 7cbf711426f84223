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


def has_fast_bfloat16(device: str) -> bool:
    """Whether a device multiplies matrices in bfloat16 at least twice as fast as in single precision: CPUs with AMX or
    AVX512-BF16 (others emulate it, slowly), GPUs with units for it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
