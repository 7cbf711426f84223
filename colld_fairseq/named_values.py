"""Options that hold one value, or a value for each name: `0.5`, or `whisper=2,hubert=1`.

A comma followed by NAME= begins the next entry, so values may hold commas of their own: `a=1:2,2:4,b=2:12`.
"""

import re
from typing import Dict, Optional, Sequence

from colld_fairseq.errors import ConfigError

ENTRY = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9_-]*)=")


def split_named(text: str, option: str) -> Dict[str, str]:
    """{name: value} in the order written; empty where `text` has no NAME= (one value without a name).
    Raises ConfigError for a name given twice or without a value, and for a value without a name before named ones.
    `option` is named in the message."""
    first = ENTRY.search(text.strip())
    if first is None:
        return {}
    unnamed, *parts = ENTRY.split(text.strip())
    if unnamed:
        raise ConfigError(f"{option} {text!r}: {unnamed!r} has no name, but {first[1]}= begins a named value; name all")
    names, values = parts[0::2], [value.strip() for value in parts[1::2]]
    for name, value in zip(names, values):
        if names.count(name) > 1:
            raise ConfigError(f"{option} {text!r} names {name!r} twice")
        if not value:
            raise ConfigError(f"{option} {text!r} gives {name!r} no value")
    return dict(zip(names, values))


def all_named(text: str, option: str, example: str) -> Dict[str, str]:
    """`split_named` of an option whose values all need names; empty where it is not given. Raises ConfigError, which
    shows the example, for a value without a name."""
    named = split_named(text, option)
    if text.strip() and not named:
        raise ConfigError(f"{option} {text!r} has no NAME=; write it as {example}")
    return named


def value_of_each(text: str, names: Sequence[str], option: str, default: Optional[str] = None) -> Dict[str, str]:
    """{name: value} for all `names`, from one value for all of them or from named ones.

    default: for names that are left out; without it every name has to be there. Raises ConfigError for a name that is
    not among `names`, or is missing.
    """
    values = split_named(text, option)
    if not values:
        return dict.fromkeys(names, text)
    unknown = [name for name in values if name not in names]
    if unknown:
        raise ConfigError(f"{option} {text!r}: there is no {unknown[0]!r}; the names are {', '.join(names)}")
    missing = [name for name in names if name not in values]
    if missing and default is None:
        raise ConfigError(f"{option} {text!r} gives {missing[0]!r} no value")
    return {name: values.get(name, default or "") for name in names}


def choice_of_each(text: str, names: Sequence[str], option: str, allowed: Sequence[str]) -> Dict[str, str]:
    """{name: one of `allowed`} for all `names`; for those left out the first, the option's default. Raises ConfigError
    for a value that is not among them."""
    values = value_of_each(text, names, option, default=allowed[0])
    for value in values.values():
        if value not in allowed:
            raise ConfigError(f"{option} {text!r}: {value!r} is not one of {', '.join(allowed)}")
    return values
