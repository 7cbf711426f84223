"""A task's default silently replaces that of a criterion's or model's field with the same name."""

import dataclasses
import itertools

import pytest
from fairseq.dataclass.configs import FairseqConfig
from registered import CRITERIONS, MODELS, TASKS

INTENDED = {"_name", "seed"}  # seed is interpolated from common.seed


def names(config):
    return {field.name for field in dataclasses.fields(config)} - INTENDED


def test_there_is_something_to_compare():
    assert len(TASKS) >= 2 and len(CRITERIONS) >= 3 and len(MODELS) >= 3


@pytest.mark.parametrize(
    "first, second",
    [pair for a, b in itertools.combinations((TASKS, CRITERIONS, MODELS), 2) for pair in itertools.product(a, b)],
    ids=lambda config: config.__name__,
)
def test_no_field_is_shared(first, second):
    assert names(first) & names(second) == set()


def test_no_field_shadows_an_option_of_fairseq():
    """Such a flag would be dropped without a message: fairseq's own is defined first."""
    general = set()
    for group in dataclasses.fields(FairseqConfig):
        defaults = group.type if dataclasses.is_dataclass(group.type) else group.default
        if dataclasses.is_dataclass(defaults):
            general |= {field.name for field in dataclasses.fields(defaults)}
    assert "max_tokens" in general
    for config in (*TASKS, *CRITERIONS, *MODELS):
        assert names(config) & general == set(), config.__name__


def test_command_line_and_defaults_reach_the_criterion(distillation):
    run = distillation()
    assert run.criterion.cfg.l1_weight == 0.0 and run.criterion.cfg.num_negatives == 100
    assert distillation("--num-negatives", "7").criterion.cfg.num_negatives == 7
