"""Runs that learn nothing: CTC and transducers may write nothing but blanks for thousands of updates, or for good."""

from dataclasses import dataclass
from typing import Dict, Optional, Sequence

TOO_MUCH_CER = 120.0
BLANK_CER, BLANK_CHRF = 0.05, 0.05  # hypotheses without a character: CER so near to 100, chrF so near to 0


@dataclass(frozen=True)
class Plateau:
    """When a run is dead: its last validations, from this share of its updates on, have at least this CER and, where
    it is logged, at most this chrF (a translator may have many character errors and know words)."""

    share: float = 0.5
    cer: float = 97.0
    chrf: float = 5.0
    validations: int = 2


def plateau(validations: Sequence[Dict[str, float]], updates: int, rule: Plateau) -> Optional[str]:
    """What the validations of a run of so many updates (0 = not known) say of its plateau; None where it has left it,
    or may still do so.

    A run is dead where its last `rule.validations` validations, none before `rule.share` of the updates, have a CER of
    `rule.cer` or more and a chrF of `rule.chrf` or less. Runs that do not decode in validation have no CER.
    """
    late = [one for one in validations if one["num_updates"] >= rule.share * updates][-rule.validations :]
    if len(late) < rule.validations or not all(is_dead(one, rule) for one in late):
        return None
    what = described(late[-1])
    of = f" of {updates}" if updates else ""
    where = f"validation CER {error_rate(late[-1]):.1f} after {late[-1]['num_updates']:.0f}{of} updates"
    return f"plateau: {where}, {what}; it learns nothing"


def error_rate(validation: Dict[str, float]) -> Optional[float]:
    """CER of a validation: that of CTC on transcripts beside a translator, else that of the targets."""
    return validation.get("ctc_cer", validation.get("cer"))


def overlap(validation: Dict[str, float]) -> float:
    """chrF of the same hypotheses; 0 where it is not logged."""
    return validation.get("ctc_chrf" if "ctc_cer" in validation else "chrf", 0.0)


def is_dead(validation: Dict[str, float], rule: Plateau) -> bool:
    rate = error_rate(validation)
    return rate is not None and rate >= rule.cer and overlap(validation) <= rule.chrf


def described(validation: Dict[str, float]) -> str:
    """What is wrong with the hypotheses of a dead run."""
    if is_blank(validation):
        return "hypotheses are blank"
    # More errors than there are characters: most of them are insertions.
    return (
        "hypotheses are long and wrong"
        if error_rate(validation) > TOO_MUCH_CER
        else "hypotheses are hardly more than blank"
    )


def is_blank(validation: Dict[str, float]) -> bool:
    """Whether all hypotheses are empty: every character of the references is deleted, and none is right."""
    return abs(error_rate(validation) - 100) <= BLANK_CER and overlap(validation) <= BLANK_CHRF
