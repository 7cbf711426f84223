"""Transformer block, attention and positions against torch's own layers and direct formulas."""

import math

import pytest
import torch
from torch import nn

from colld_fairseq.modules.attention import SelfAttention
from colld_fairseq.modules.encoder import EncoderConfig
from colld_fairseq.modules.positions import (
    ConvPositionalEmbedding,
    RelativeKeyBias,
    apply_rotary,
    attention_key_bias,
    rotary_table,
)
from colld_fairseq.modules.transformer import TransformerBlock


@pytest.mark.parametrize("norm_first", [False, True])
def test_block_equals_torch_encoder_layer(norm_first):
    torch.manual_seed(0)
    config = EncoderConfig(
        block="transformer",
        embed_dim=16,
        ffn_dim=24,
        attention_heads=4,
        norm_first=norm_first,
        position="none",
    )
    block = TransformerBlock(config).double()
    reference = nn.TransformerEncoderLayer(
        16,
        4,
        24,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=norm_first,
        dtype=torch.float64,
    )
    reference.self_attn.in_proj_weight.data = block.attention.qkv.weight.data
    nn.init.normal_(block.attention.qkv.bias)
    reference.self_attn.in_proj_bias.data = block.attention.qkv.bias.data
    for ours, theirs in [
        (block.attention.out, reference.self_attn.out_proj),
        (block.attention_layer_norm, reference.norm1),
        (block.ffn.linear_in, reference.linear1),
        (block.ffn.linear_out, reference.linear2),
        (block.final_layer_norm, reference.norm2),
    ]:
        nn.init.normal_(ours.weight)
        nn.init.normal_(ours.bias)
        theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    padding = torch.arange(7) >= torch.tensor([7, 4, 1])[:, None]
    y, ffn = block(x, padding, attention_key_bias(padding, x.dtype))
    expected = reference(x, src_key_padding_mask=padding)
    torch.testing.assert_close(y[~padding], expected[~padding], atol=1e-10, rtol=0)
    assert ffn.shape == x.shape and not torch.allclose(ffn, y)


def test_padded_keys_get_no_weight_and_an_empty_utterance_stays_finite():
    torch.manual_seed(0)
    attention = SelfAttention(EncoderConfig(embed_dim=16, attention_heads=2))
    x = torch.randn(2, 5, 16, requires_grad=True)
    padding = torch.arange(5) >= torch.tensor([3, 0])[:, None]
    y = attention(x, attention_key_bias(padding, x.dtype))
    torch.testing.assert_close(y[0, :3], attention(x[:1, :3])[0], atol=1e-6, rtol=0)
    y.sum().backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(y).all()


def test_conv_position_equals_weight_normalized_convolution():
    torch.manual_seed(0)
    for kernel in (8, 7):
        module = ConvPositionalEmbedding(12, kernel, 3).double()
        conv = nn.Conv1d(12, 12, kernel, padding=kernel // 2, groups=3).double()
        conv = nn.utils.parametrizations.weight_norm(conv, name="weight", dim=2)
        conv.parametrizations.weight.original0.data.uniform_(0.5, 2.0)
        module.weight_g.data = conv.parametrizations.weight.original0.data
        module.weight_v.data = conv.parametrizations.weight.original1.data
        module.bias.data = conv.bias.data
        x = torch.randn(2, 10, 12, dtype=torch.float64)
        expected = nn.functional.gelu(conv(x.transpose(1, 2))[..., :10]).transpose(1, 2)
        torch.testing.assert_close(module(x), expected, atol=1e-12, rtol=0)


def test_rotary_scores_depend_on_distance_only():
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 1, 8, dtype=torch.float64).expand(2, 1, 6, 1, 1, 8)
    table = rotary_table(6, 8, query)
    scores = torch.einsum("btnhd,bsnhd->ts", apply_rotary(query, table), apply_rotary(key, table))
    for distance in range(-5, 6):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-6, rtol=0)
    assert (scores[0, 0] - scores[0, 3]).abs() > 1e-3
    torch.testing.assert_close(scores[2, 2], (query[0, 0] * key[0, 0]).sum())


def test_relative_key_bias_equals_a_loop():
    torch.manual_seed(0)
    module = RelativeKeyBias(4, max_left=2, max_right=1)
    query = torch.randn(1, 2, 6, 4)
    bias = module(query)
    for head in range(2):
        for i in range(6):
            for j in range(6):
                vector = module.weight[min(max(j - i, -2), 1) + 2]
                expected = (query[0, head, i] * vector).sum() / math.sqrt(4)
                torch.testing.assert_close(bias[0, head, i, j], expected)
