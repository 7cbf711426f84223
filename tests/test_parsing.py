"""JSON, YAML and the values in them: one kind of error, in one line, for whatever is wrong."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import pytest
import yaml

from colld_fairseq.errors import CheckpointError, ConfigError
from colld_fairseq.field_types import check_types, is_of
from colld_fairseq.parsing import parse_json, parse_yaml, values_of

WRONG_YAML = [
    "a: [",
    "a: !!bool x",
    "a: !!int ''",
    "a: !!timestamp x",
    "a: 2001-99-99",
    "!!python/object:os.x {}",
    "[" * 900,
]


@pytest.mark.parametrize("text", WRONG_YAML, ids=lambda text: text[:12])
def test_what_is_no_yaml(text):
    """The parser itself raises errors of six kinds for these."""
    with pytest.raises(ValueError) as caught:
        parse_yaml(text)
    assert not isinstance(caught.value, yaml.YAMLError) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", b"\xff", "[" * 100_000, b"[" * 100_000])
def test_what_is_no_json(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_what_is_right_is_read():
    content = {"a": [1, 2.5, None, True], "b": {"c": "d"}}
    assert parse_yaml(yaml.safe_dump(content)) == content
    assert parse_json(b'{"a": [1, 2.5, null, true], "b": {"c": "d"}}') == content


@pytest.mark.parametrize(
    "error", [TypeError("a\nb"), KeyError("a"), ZeroDivisionError("a"), AttributeError("a"), OverflowError("a")]
)
def test_errors_about_values_name_the_file(error):
    with pytest.raises(CheckpointError, match=r"^config.json: holds values that make no sense \(.*\); copy"):
        with values_of("config.json"):
            raise error


def test_errors_that_say_it_already_stay():
    with pytest.raises(ConfigError, match="^said$"):
        with values_of("config.json"):
            raise ConfigError("said")


@dataclass
class Shape:
    layers: int = 1
    rate: float = 0.5
    name: str = ""
    norm: bool = False
    sizes: List[List[int]] = field(default_factory=list)
    left: Optional[int] = None
    table: Dict[int, str] = field(default_factory=dict)
    anything: Any = None


@pytest.mark.parametrize(
    "values",
    [
        dict(layers=3, rate=1, name="a", norm=True, sizes=[(1, 2), [3]], left=4, table={1: "a"}, anything=[object()]),
        dict(layers=np.int64(3), rate=np.float32(0.5)),
        dict(),
    ],
)
def test_values_of_the_declared_types(values):
    check_types(Shape(**values))


@pytest.mark.parametrize(
    "values",
    [
        dict(layers="3"), dict(layers=True), dict(layers=3.0), dict(rate="0.5"), dict(rate=None), dict(name=None),
        dict(norm=1), dict(sizes=[3]), dict(sizes=[["a"]]), dict(sizes="ab"), dict(left="4"), dict(table={"a": "b"}),
        dict(table=[1]),
    ],
    ids=str,
)  # fmt: skip
def test_values_of_other_types_are_named(values):
    ((name, value),) = values.items()
    with pytest.raises(ConfigError, match=rf"^{name}="):
        check_types(Shape(**values))


def test_types_by_themselves():
    assert is_of(3, float) and not is_of(False, float)
    assert is_of(None, Optional[str]) and is_of({"a": None}, Dict[str, Any])
    assert is_of((1, 2), Tuple[int, ...]) and not is_of([1], Tuple[int, ...]) and not is_of(("1",), Tuple[int, ...])
