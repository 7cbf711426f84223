import pytest

from colld_fairseq.errors import ConfigError
from colld_fairseq.named_values import all_named, split_named, value_of_each


def test_commas_and_equal_signs_inside_values():
    assert split_named("a=1:2,2:4, b-2=hf:/data/x=1/y,z", "--x") == {"a": "1:2,2:4", "b-2": "hf:/data/x=1/y,z"}


@pytest.mark.parametrize("text", ["hf:/data/a=b", "1:2,2:4", "", "0.5", "/a=b/c"])
def test_one_value_without_a_name(text):
    assert split_named(text, "--x") == {}
    assert value_of_each(text, ["a", "b"], "--x") == {"a": text, "b": text}


def test_names_come_in_the_order_asked_for():
    assert list(value_of_each("b=2,a=1", ["a", "b"], "--x").items()) == [("a", "1"), ("b", "2")]
    assert value_of_each("b=2", ["a", "b"], "--x", default="0") == {"a": "0", "b": "2"}


@pytest.mark.parametrize(
    "text, message",
    [
        ("a=1,a=2", "'a' twice"),
        ("a=,b=2", "'a' no value"),
        ("a=1,c=2", "no 'c'"),
        ("a=1", "'b' no"),
        ("1,b=2", "'1' has no name, but b= begins"),
        ("hf:x,y, b=2", "'hf:x,y' has no name"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ConfigError, match=message):
        value_of_each(text, ["a", "b"], "--x")


def test_values_that_all_need_a_name():
    assert (
        all_named("a=1,b=2", "--x", "NAME=VALUE") == {"a": "1", "b": "2"} and all_named("", "--x", "NAME=VALUE") == {}
    )
    for text in ("1", "1,b=2"):
        with pytest.raises(ConfigError, match="--x '1"):
            all_named(text, "--x", "NAME=VALUE")
