"""JSON and YAML that others wrote, and the values in them: whatever is wrong is told in one line.

The parsers themselves raise errors of many kinds: RecursionError for what is nested too deeply, KeyError for
`!!bool x`, ValueError for what looks like a date and is none.
"""

import contextlib
import json
from pathlib import Path
from typing import Any, Iterator, Union

import yaml

from colld_fairseq.errors import CheckpointError, ColldError


def parse_json(text: Union[str, bytes]) -> Any:
    """Plain values. ValueError, of one line, for what is no JSON or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parse_yaml(text: str, loader: Any = yaml.SafeLoader) -> Any:
    """Plain values; no object is made. ValueError, of one line, for anything that is wrong with it."""
    try:
        return yaml.load(text, loader)
    except Exception as error:
        reason = str(error) if isinstance(error, yaml.YAMLError) else f"{type(error).__name__}: {error}"
        raise ValueError(" ".join(reason.split())) from error


@contextlib.contextmanager
def values_of(path: Union[str, Path]) -> Iterator[None]:
    """Errors of Python about values that were read from `path` (a text where a number should be, a list where names
    should be) as CheckpointError that names the file."""
    try:
        yield
    except ColldError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: holds values that make no sense ({reason}); copy it again") from error
