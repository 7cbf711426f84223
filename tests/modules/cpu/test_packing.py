"""Utterances without their padding: the same features and gradients as with it."""

import pytest
import torch

from colld_fairseq.modules.cpu import plain_operators
from colld_fairseq.modules.cpu.packing import Packing
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder


def padding(*frames):
    return torch.arange(max(frames)) >= torch.tensor(frames)[:, None]


def test_pack_and_unpack():
    x = torch.randn(3, 5, 2, requires_grad=True)
    packing = Packing.of(padding(2, 5, 3))
    packed = packing.pack(x)
    assert torch.equal(packed[0], torch.cat([x[0, :2], x[1], x[2, :3]])) and packing.frames == [2, 5, 3]
    back = packing.unpack(packed)
    assert torch.equal(back, x.masked_fill(padding(2, 5, 3).unsqueeze(-1), 0.0))
    back.sum().backward()
    assert torch.equal(x.grad, (~padding(2, 5, 3)).unsqueeze(-1).expand_as(x).float())


def test_parts_hold_every_utterance_in_order():
    packing = Packing.of(padding(3, 1, 2, 5, 0, 1))
    assert packing.parts(4) == [[3, 1], [2, 5], [0, 1]]
    assert packing.parts(1) == [[3], [1], [2], [5], [0, 1]]
    assert packing.parts(100) == [packing.frames]


@pytest.mark.parametrize("lengths", [[30, 12, 25, 8, 17], [30] * 5], ids=["padded", "full"])
@pytest.mark.parametrize("kind", ["layer", "ffn"])
def test_without_gradients_utterances_run_in_groups(lengths, kind, monkeypatch):
    monkeypatch.setattr("colld_fairseq.modules.encoder.UTTERANCE_FRAMES", 13)
    torch.manual_seed(0)
    shape = dict(layers=3, embed_dim=16, ffn_dim=24, attention_heads=2, position="none", norm_first=True)
    encoder = StudentEncoder(EncoderConfig(front_end="fbank", block="transformer", **shape)).double().eval()
    source, lengths = torch.randn(5, 30, 80).double(), torch.tensor(lengths)
    widths = []
    encoder.blocks[0].register_forward_pre_hook(lambda module, arguments: widths.append(arguments[0].size(1)))
    with torch.no_grad():
        out = encoder(source, lengths, layers=[1, 3], kind=kind)
        parts = list(widths)
        with plain_operators():
            expected = encoder(source, lengths, layers=[1, 3], kind=kind)
    assert len(parts) > 1 and sum(parts) == out.lengths.sum() and parts + [15] == widths
    valid = ~out.padding_mask
    assert list(out.features) == [1, 3]
    for ours, theirs in zip((out.x, *out.features.values()), (expected.x, *expected.features.values()), strict=True):
        torch.testing.assert_close(ours[valid], theirs[valid], atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("position", ["conv", "relative_key", "none"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_gives_the_same_packed_and_padded(position, norm_first):
    torch.manual_seed(0)
    config = EncoderConfig(
        front_end="fbank",
        block="transformer",
        position=position,
        norm_first=norm_first,
        layers=2,
        embed_dim=16,
        ffn_dim=24,
        attention_heads=2,
        conv_pos=4,
        conv_pos_groups=2,
    )
    encoder = StudentEncoder(config).double()
    source, lengths = torch.randn(4, 31, 80).double(), torch.tensor([17, 31, 0, 24])  # one utterance holds nothing
    weights = torch.randn(4, 16, 16).double()
    widths, results = [], []
    encoder.blocks[0].register_forward_pre_hook(lambda module, arguments: widths.append(arguments[0].shape[:2]))
    for plain in (False, True):
        encoder.zero_grad()
        if plain:
            with plain_operators():
                out = encoder(source, lengths, layers=[0, 1, 2])
        else:
            out = encoder(source, lengths, layers=[0, 1, 2])
        values = torch.stack([out.x, *out.features.values()]).masked_fill(out.padding_mask.unsqueeze(-1), 0.0)
        (values * weights).sum().backward()
        gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
        results.append((values, *gradients))
    assert widths == [(1, out.lengths.sum()), (4, 16)]
    for packed, padded in zip(*results, strict=True):
        torch.testing.assert_close(packed, padded, atol=1e-10, rtol=1e-8)
