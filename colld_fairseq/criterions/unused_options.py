"""Options of a part that is switched off: a run that begins says which have no effect."""

import logging
from dataclasses import fields
from typing import Any, Type

from fairseq.dataclass import FairseqDataclass

logger = logging.getLogger(__name__)


def tell_unused(cfg: Any, part: Type[FairseqDataclass], switch: str) -> None:
    """Warns of fields of `part` that differ from their default in `cfg`, where `switch`, a field of it, is "none"."""
    if getattr(cfg, switch) != "none":
        return
    others = [one for one in fields(part) if one.name not in (switch, "_name")]
    given = [_option(one.name) for one in others if getattr(cfg, one.name) != one.default]
    if given:
        logger.warning("%s: without effect, as %s is none", ", ".join(given), _option(switch))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
