import math

import pytest

from colld_fairseq.decoding.streaming import EndpointRules


@pytest.mark.parametrize(
    "has_text, silence, length, over",
    [
        (False, 2.39, 2.39, False),
        (False, 2.4, 2.4, True),
        (True, 1.19, 5.0, False),
        (True, 1.2, 5.0, True),
        (True, 0.1, 19.9, False),
        (True, 0.1, 20.0, True),
    ],
)
def test_default_rules(has_text, silence, length, over):
    assert EndpointRules().reached(has_text, silence, length) == over
    assert not EndpointRules(math.inf, math.inf, math.inf).reached(has_text, silence, length)
