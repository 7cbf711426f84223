"""Whether the fields of a configuration hold what they are declared to: values come from files that others wrote."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, Dict, Union, get_args, get_origin, get_type_hints

from colld_fairseq.errors import ConfigError


def check_types(config: Any) -> None:
    """ConfigError for a field of a dataclass whose value is not of the type that is declared for it."""
    for name, declared in _declared(config.__class__).items():
        value = getattr(config, name)
        if not is_of(value, declared):
            wanted = getattr(declared, "__name__", str(declared)) if get_origin(declared) is None else str(declared)
            raise ConfigError(f"{name}={value!r} must be {wanted.replace('typing.', '')}")


@lru_cache(maxsize=None)
def _declared(config: Any) -> Dict[str, Any]:
    hints = get_type_hints(config)
    return {one.name: hints[one.name] for one in fields(config)}


def is_of(value: Any, declared: Any) -> bool:
    """Whether a value is of a type: a plain one, or Optional, Union, List, Dict of such. Whole numbers are also float;
    True and False are no numbers; a tuple is also a List; a Tuple has one type and any length."""
    origin, inner = get_origin(declared), get_args(declared)
    if declared is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(is_of(value, one) for one in inner)
    if declared is int or declared is float:
        return isinstance(value, Integral if declared is int else Real) and not isinstance(value, bool)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(is_of(k, inner[0]) and is_of(v, inner[1]) for k, v in value.items())
    if origin is tuple and inner[1:] == (...,):
        return isinstance(value, tuple) and all(is_of(one, inner[0]) for one in value)
    if origin is list:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(is_of(one, inner[0]) for one in value)
    return isinstance(value, declared)
