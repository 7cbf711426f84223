"""A bool field that defaults to True becomes a flag which sets it to False."""

import dataclasses

import pytest
from registered import DATACLASSES


@pytest.mark.parametrize("config", DATACLASSES, ids=lambda config: config.__name__)
def test_no_boolean_defaults_to_true(config):
    assert [field.name for field in dataclasses.fields(config) if field.default is True] == []


def test_every_option_has_help():
    for config in DATACLASSES:
        for field in dataclasses.fields(config):
            if field.name not in ("_name", "seed"):
                assert field.metadata.get("help"), f"{config.__name__}.{field.name}"
