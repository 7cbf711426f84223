"""Prediction networks: one symbol at a time equals the whole sequence; the future and other rows are not seen.

Joiner: the formula, and the lattice made of single pairs.
"""

import pytest
import torch

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.transducer import Joiner, LstmPredictor, StatelessPredictor

BLANK, PAD = 0, 1


def predictor(kind):
    torch.manual_seed(0)
    if kind == "lstm":
        return LstmPredictor(9, 8, 2, 0.0, BLANK, PAD).eval()
    return StatelessPredictor(9, 8, int(kind), 0.0, BLANK, PAD).eval()


KINDS = ["lstm", "1", "2", "3"]
TOKENS = torch.tensor([[0, 3, 4, 5, 3, 8], [0, 7, 7, 2, 6, 4]])


@pytest.mark.parametrize("tags", [None, torch.tensor([3, 5])])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_the_sequence(kind, tags):
    module = predictor(kind)
    with torch.no_grad():
        whole = module(TOKENS, tags)
        state = module.start(2, tags)
        for u in range(TOKENS.size(1)):
            output, state = module.step(TOKENS[:, u], state)
            torch.testing.assert_close(output, whole[:, u])
            # A search selects, repeats and reorders rows.
            output, _ = module.step(TOKENS[[1, 0], u], tuple(x[[1, 0]] for x in module_state(module, tags, u)))
            torch.testing.assert_close(output, whole[[1, 0], u])


def module_state(module, tags, steps):
    state = module.start(2, tags)
    for u in range(steps):
        _, state = module.step(TOKENS[:, u], state)
    return state


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_output_depends_on(kind):
    """Gradient of the last output by the embeddings of each position."""
    module = predictor(kind)
    module.embed.weight.data = module.embed.weight.abs() + 0.1  # no ReLU is dead
    for parameter in module.parameters():
        parameter.data.abs_()
    tokens = torch.tensor([[2, 3, 4, 5, 6, 7]])
    gradients = torch.autograd.grad(module(tokens)[0, 4].sum(), module.embed.weight)[0].abs().sum(1)
    seen = {token for token in range(9) if gradients[token] > 0}
    assert seen == ({2, 3, 4, 5, 6} if kind == "lstm" else set(range(7 - int(kind), 7)))


def test_stateless_predictor_is_embedding_grouped_convolution_and_relu():
    module = predictor("2")
    x = module.embed(torch.tensor([5, 3]))
    weight = module.conv.weight  # [8, 4, 2]: channels, channels of its group, positions
    expected = [
        sum(float(weight[c, i, k]) * float(x[k, 4 * (c // 4) + i]) for i in range(4) for k in range(2))
        for c in range(8)
    ]
    result = module(torch.tensor([[5, 3]]))[0, 1]
    torch.testing.assert_close(result, torch.tensor(expected).clamp(min=0))


@pytest.mark.parametrize("kind", KINDS)
def test_no_tag_is_never_trained(kind):
    module = predictor(kind)
    module(TOKENS, torch.tensor([PAD, PAD])).sum().backward()
    assert module.embed.weight[PAD].abs().sum() == 0 and module.embed.weight.grad[PAD].abs().sum() == 0
    torch.testing.assert_close(module(TOKENS, torch.tensor([PAD, PAD])), module(TOKENS))


def test_shapes_that_cannot_be():
    with pytest.raises(ConfigError, match="divisible by 4"):
        StatelessPredictor(9, 10, 2, 0.0, BLANK, PAD)
    with pytest.raises(ConfigError, match="context >= 1"):
        StatelessPredictor(9, 8, 0, 0.0, BLANK, PAD)


def joiner_setting(activation="tanh"):
    torch.manual_seed(0)
    joiner = Joiner(6, 5, 4, 7, activation)
    return joiner, torch.randn(2, 4, 6), torch.randn(2, 3, 5)


@pytest.mark.parametrize("activation, function", [("tanh", torch.tanh), ("relu", torch.relu)])
def test_formula_of_the_joiner(activation, function):
    joiner, h, g = joiner_setting(activation)
    result = joiner(joiner.encoder_projection(h[0, 1]), joiner.predictor_projection(g[0, 2]))
    inner = joiner.encoder_projection.weight @ h[0, 1] + joiner.encoder_projection.bias
    inner = function(inner + joiner.predictor_projection.weight @ g[0, 2])
    torch.testing.assert_close(result, joiner.output.weight @ inner + joiner.output.bias)


def test_packed_lattice_skips_padding():
    joiner, h, g = joiner_setting()
    frames, symbols = joiner.encoder_projection(h), joiner.predictor_projection(g)
    packed = joiner.lattice(frames, symbols, [4, 3], [1, 2])
    pairs = [(0, t, u) for t in range(4) for u in range(2)] + [(1, t, u) for t in range(3) for u in range(3)]
    expected = torch.stack([joiner(frames[b, t], symbols[b, u]) for b, t, u in pairs])
    torch.testing.assert_close(packed, expected)
    assert joiner.lattice(frames, symbols, [0, 1], [1, 0]).shape == (1, 7)


def test_unknown_activation_of_the_joiner():
    with pytest.raises(ConfigError, match="tanh"):
        Joiner(6, 5, 4, 7, "sine")
