"""Activation checkpointing and compilation of blocks: the same outputs and gradients, less memory."""

import copy

import pytest
import torch
from peak_memory import PeakMemory
from torch._dynamo.testing import CompileCounterWithBackend

from colld_fairseq.modules.block_runs import BlockRuns
from colld_fairseq.modules.cpu import plain_operators
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder

SHAPES = {
    "transformer": dict(block="transformer", position="conv", conv_pos=16, conv_pos_groups=4, norm_first=True),
    "conformer": dict(block="conformer", position="relative_key", depthwise_conv_kernel=7),
    "rotary": dict(block="conformer", position="rotary", depthwise_conv_kernel=7),
}


def make(shape, layers=3, **more):
    torch.manual_seed(0)
    sizes = dict(layers=layers, embed_dim=32, ffn_dim=48, attention_heads=4, fbank_stack=2)
    return StudentEncoder(EncoderConfig(front_end="fbank_stack", **sizes, **SHAPES[shape], **more)).train()


def outputs_and_gradients(encoder, frames, layers=(0, 2)):
    """Of a padded batch with this many filterbank frames."""
    torch.manual_seed(1)
    source, lengths = torch.randn(2, frames, 80), torch.tensor([frames, frames - 24])
    encoder.zero_grad()
    output = encoder(source, lengths, layers=layers)
    valid = ~output.padding_mask
    values = [output.x[valid], *(output.features[layer][valid] for layer in layers)]
    sum(value.pow(2).sum() for value in values).backward()
    return values, {name: value.grad for name, value in encoder.named_parameters() if value.grad is not None}


def check_same(encoder, other, frames, **tolerance):
    values, gradients = outputs_and_gradients(encoder, frames)
    others, other_gradients = outputs_and_gradients(other, frames)
    torch.testing.assert_close(others, values, **tolerance)
    assert other_gradients.keys() == gradients.keys() and len(gradients) > 20
    torch.testing.assert_close(other_gradients, gradients, **tolerance)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("packed", [False, True])
def test_checkpointing_changes_nothing_not_even_dropout(shape, packed):
    encoder = make(shape, dropout=0.2, attention_dropout=0.1, activation_dropout=0.1, layerdrop=0.3)
    other = copy.deepcopy(encoder)
    other.runs = BlockRuns(checkpointed=True)
    with plain_operators(*[] if packed else ["packing"]):
        check_same(encoder, other, 80, rtol=0, atol=0)
    assert encoder.state_dict().keys() == other.state_dict().keys()


def test_checkpointing_of_a_frozen_front_end():
    """Whose output wants no gradient; the blocks' weights do."""
    encoder = make("transformer")
    encoder.front_end.requires_grad_(False)
    encoder.pos_conv.requires_grad_(False)
    other = copy.deepcopy(encoder)
    other.runs = BlockRuns(checkpointed=True)
    check_same(encoder, other, 80, rtol=0, atol=0)


def test_checkpointing_saves_memory():
    peaks = []
    for checkpointed in (False, True):
        encoder = make("conformer", layers=6)
        encoder.runs = BlockRuns(checkpointed)
        with PeakMemory() as memory:
            outputs_and_gradients(encoder, 800)
        peaks.append(memory.peak)
    assert peaks[1] < 0.5 * peaks[0]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "shape, checkpointed",
    [
        ("transformer", False),
        *[pytest.param("transformer", True, marks=SLOW), pytest.param("conformer", True, marks=SLOW)],
        *[pytest.param("conformer", False, marks=SLOW), pytest.param("rotary", False, marks=SLOW)],
    ],
)
def test_compiling_changes_nothing_and_blocks_share_their_graphs(shape, checkpointed):
    """Where lengths need graphs of their own, they are those of all blocks."""
    encoder, backend = make(shape, layers=5), CompileCounterWithBackend("aot_eager")
    other = copy.deepcopy(encoder)
    other.runs = BlockRuns(checkpointed, compiled=True, backend=backend)
    torch._dynamo.reset()
    for frames in (80, 96, 120):
        check_same(encoder, other, frames, rtol=1e-4, atol=1e-5)
    assert 1 <= backend.frame_count <= 3
    before = backend.frame_count
    with torch.no_grad():
        other.eval()(torch.randn(1, 50, 80))
    assert backend.frame_count == before  # decoding does not wait for a compiler
    assert copy.deepcopy(other).runs.compiled and encoder.state_dict().keys() == other.state_dict().keys()


def test_decoding_is_that_of_a_model_that_was_not_compiled(monkeypatch):
    """Utterances behind one another in one row, and no compiler, which takes seconds to import."""
    encoder, rows = make("transformer").eval(), []
    other = copy.deepcopy(encoder)
    monkeypatch.setattr(torch, "compile", None)
    other.runs = BlockRuns(compiled=True)
    torch.manual_seed(1)
    source, lengths = torch.randn(2, 80, 80), torch.tensor([80, 48])
    for one in (encoder, other):
        one.blocks[0].register_forward_pre_hook(lambda block, given: rows.append(len(given[0])))
    with torch.no_grad():
        expected, output = encoder(source, lengths), other(source, lengths)
    torch.testing.assert_close(output.x, expected.x, rtol=0, atol=0)
    assert rows == [1, 1]


@SLOW
def test_compiled_to_machine_code():
    encoder = make("transformer")
    other = copy.deepcopy(encoder)
    other.runs = BlockRuns(compiled=True)
    for frames in (80, 96):
        check_same(encoder, other, frames, rtol=1e-3, atol=1e-4)
