"""Running means of losses: plain over the first updates, fading afterwards; kept in a checkpoint."""

import json
import math

import numpy as np
import pytest

from colld_fairseq.losses.balance import LossScales


def test_mean_of_the_first_updates_then_fading():
    values = np.random.default_rng(1).uniform(0.1, 9, 20)
    scales = LossScales()
    for count, value in enumerate(values, 1):
        scales.add("a", value, updates=6)
        if count <= 6:
            assert scales.running["a"] == pytest.approx(values[:count].mean())
    expected = values[:6].mean()
    for value in values[6:]:
        expected = expected * 5 / 6 + value / 6
    assert scales.running["a"] == pytest.approx(expected) and scales.start["a"] == values[0]


@pytest.mark.parametrize("mean", [0.0, -1.0, math.nan, math.inf])
def test_what_nothing_can_be_divided_by(mean):
    scales = LossScales()
    scales.add("a", mean, updates=6)
    assert not scales.running and not scales.start


def test_state_goes_on_digit_for_digit():
    values = np.random.default_rng(2).uniform(0.1, 9, 9).tolist()
    whole, first, second = LossScales(), LossScales(), LossScales()
    for value in values:
        whole.add("a", value, updates=4)
    for value in values[:5]:
        first.add("a", value, updates=4)
    second.restore(json.loads(json.dumps(first.state())))
    for value in values[5:]:
        second.add("a", value, updates=4)
    assert second == whole
    second.restore({})
    assert second == LossScales()
