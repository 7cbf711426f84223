"""Joiner: the formula, and the lattice made of single pairs."""

import pytest
import torch

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.joiner import Joiner


def setting(activation="tanh"):
    torch.manual_seed(0)
    joiner = Joiner(6, 5, 4, 7, activation)
    return joiner, torch.randn(2, 4, 6), torch.randn(2, 3, 5)


@pytest.mark.parametrize("activation, function", [("tanh", torch.tanh), ("relu", torch.relu)])
def test_formula(activation, function):
    joiner, h, g = setting(activation)
    result = joiner(joiner.encoder_projection(h[0, 1]), joiner.predictor_projection(g[0, 2]))
    inner = joiner.encoder_projection.weight @ h[0, 1] + joiner.encoder_projection.bias
    inner = function(inner + joiner.predictor_projection.weight @ g[0, 2])
    torch.testing.assert_close(result, joiner.output.weight @ inner + joiner.output.bias)


def test_packed_lattice_skips_padding():
    joiner, h, g = setting()
    frames, symbols = joiner.encoder_projection(h), joiner.predictor_projection(g)
    packed = joiner.lattice(frames, symbols, [4, 3], [1, 2])
    pairs = [(0, t, u) for t in range(4) for u in range(2)] + [(1, t, u) for t in range(3) for u in range(3)]
    expected = torch.stack([joiner(frames[b, t], symbols[b, u]) for b, t, u in pairs])
    torch.testing.assert_close(packed, expected)
    assert joiner.lattice(frames, symbols, [0, 1], [1, 0]).shape == (1, 7)


def test_unknown_activation():
    with pytest.raises(ConfigError, match="tanh"):
        Joiner(6, 5, 4, 7, "sine")
