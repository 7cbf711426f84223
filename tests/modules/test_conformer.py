"""Conformer block: depthwise convolution, block outputs."""

import pytest
import torch

from colld_fairseq.modules.conformer import ConformerBlock, DepthwiseConv
from colld_fairseq.modules.encoder import EncoderConfig


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kernel", [1, 4, 5])
def test_depthwise_equals_a_loop(kernel, causal):
    torch.manual_seed(0)
    module = DepthwiseConv(6, kernel, causal)
    x = torch.randn(2, 9, 6)
    left = kernel - 1 if causal else (kernel - 1) // 2
    expected = torch.zeros_like(x)
    for t in range(9):
        for k in range(kernel):
            if 0 <= t + k - left < 9:
                expected[:, t] += x[:, t + k - left] * module.weight[:, 0, k]
    torch.testing.assert_close(module(x), expected)


def test_causal_convolution_looks_at_the_past_only():
    module = DepthwiseConv(3, 4, causal=True)
    x = torch.randn(1, 8, 3)
    changed = x.clone()
    changed[:, 5:] += 1.0
    difference = (module(x) - module(changed)).abs().sum(-1)[0]
    assert difference[:5].max() == 0 and difference[5:].min() > 0


def test_block_is_its_formula():
    torch.manual_seed(0)
    config = EncoderConfig(
        embed_dim=16,
        ffn_dim=24,
        attention_heads=4,
        depthwise_conv_kernel=3,
        position="none",
        activation="swish",
    )
    block = ConformerBlock(config)
    x = torch.randn(2, 6, 16)
    y = x + 0.5 * block.ffn1(block.ffn1_layer_norm(x))
    y = y + block.attention(block.attention_layer_norm(y))
    conv = block.conv
    h = torch.nn.functional.glu(conv.pointwise_in(conv.layer_norm(y)), dim=-1)
    y = y + conv.pointwise_out(torch.nn.functional.silu(conv.norm(conv.depthwise(h))))
    ffn = block.ffn2(block.ffn2_layer_norm(y))
    out, ffn_out = block(x)
    torch.testing.assert_close(out, block.final_layer_norm(y + 0.5 * ffn))
    torch.testing.assert_close(ffn_out, ffn)
