"""Kinds of numbers that options take: which values make sense is said once, and checked before anything is done.

    ctc_weight: float = option(0.3, "weight of CTC", SHARE)     of a fairseq configuration
    add("--max-hours", type=POSITIVE)                           of the `colld` command

fairseq parses the first with `float`, which takes "nan" and "inf", so tasks call `check_numbers`.
"""

import argparse
import math
from dataclasses import dataclass, field, fields
from typing import Any, Mapping, Optional

from colld_fairseq.errors import ConfigError


@dataclass(frozen=True)
class Number:
    """Finite numbers from `low` to `high`, both included unless `above` (low) or `below` (high) say otherwise."""

    whole: bool = False
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        bounds = []
        if self.low > -math.inf:
            bounds.append(f"{'above' if self.above else 'at least'} {self.low:g}")
        if self.high < math.inf:
            bounds.append(f"{'below' if self.below else 'at most'} {self.high:g}")
        return " ".join(["a whole number" if self.whole else "a finite number", " and ".join(bounds)]).strip()

    def __contains__(self, value: float) -> bool:
        try:
            if not math.isfinite(value) or (self.whole and value != int(value)):
                return False
        except OverflowError:  # a whole number beyond all that floats hold
            return False
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def __call__(self, text: str) -> float:
        """The number that `text` is, for argparse's `type`."""
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:
            value = math.nan
        if value not in self:
            raise argparse.ArgumentTypeError(f"{text!r} is not {self}")
        return value

    def read(self, text: str, option: str) -> float:
        """The number that a part of an option's text is; ConfigError, naming the option, if it is none of this kind."""
        try:
            return self(text)
        except argparse.ArgumentTypeError as error:
            raise ConfigError(f"{option}: {error}") from error

    def check(self, value: float, option: str) -> float:
        """The value itself; ConfigError, naming option and range, if it is not of this kind."""
        if value not in self:
            raise ConfigError(f"{option} {value:g}: must be {self}")
        return value


COUNT = Number(whole=True, low=1)
COUNT_OR_NONE = Number(whole=True, low=0)
POSITIVE = Number(low=0, above=True)
NOT_NEGATIVE = Number(low=0)
FINITE = Number()
SHARE = Number(low=0, high=1)
PROBABILITY = Number(low=0, high=1, below=True)  # of dropping something: at 1 nothing would be left


def option(default: Any, help: str, kind: Optional[Number] = None) -> Any:
    """A field of a fairseq configuration; kind: of its numbers."""
    return field(default=default, metadata={"help": help, **({"number": kind} if kind else {})})


def check_numbers(options: Any, configs: Mapping[str, type]) -> None:
    """ConfigError, naming option and range, for a number of a fairseq configuration that is not of its kind.

    configs: fairseq's registry, name -> dataclass, which alone has the metadata: `options` has the values. What is left
    open (None) is not checked.
    """
    config = configs.get(str(getattr(options, "_name", None) or getattr(options, "arch", None)))
    for one in fields(config) if config else ():
        kind, value = one.metadata.get("number"), getattr(options, one.name, None)
        if kind is not None and isinstance(value, (int, float)):
            kind.check(value, f"--{one.name.replace('_', '-')}")
