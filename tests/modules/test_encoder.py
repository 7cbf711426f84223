"""StudentEncoder: independence of the batch, layers, masks, sizes."""

import json

import pytest
import torch

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.cpu import plain_operators
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.modules.masking import sample_span_mask

CONV_LAYERS = [[16, 10, 5]] + [[16, 3, 2]] * 4 + [[16, 2, 2]] * 2


def small_config(**changes):
    values = dict(
        front_end="fbank_stack",
        block="conformer",
        layers=2,
        embed_dim=32,
        ffn_dim=48,
        attention_heads=4,
        conv_layers=CONV_LAYERS,
        conv_pos=8,
        conv_pos_groups=4,
        depthwise_conv_kernel=5,
        max_left_position=6,
        max_right_position=3,
    )
    return EncoderConfig(**{**values, **changes})


def small_encoder(**changes):
    torch.manual_seed(0)
    encoder = StudentEncoder(small_config(**changes))
    for parameter in encoder.parameters():
        # Zero biases would hide frames that leak out of the padding.
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() == 1 else None
    return encoder.eval()


def batch(front_end):
    torch.manual_seed(1)
    if front_end == "waveform":
        return torch.randn(3, 9000), torch.tensor([5000, 9000, 4321])
    return torch.randn(3, 55, 80), torch.tensor([29, 55, 26])


@pytest.mark.parametrize("position", ["conv", "relative_key", "rotary", "none"])
@pytest.mark.parametrize("block", ["transformer", "conformer"])
@pytest.mark.parametrize("front_end", ["waveform", "fbank", "fbank_stack"])
@pytest.mark.parametrize(
    "changes",
    [{}, dict(norm_first=True, extractor_norm="layer", conv_bias=True, time_reduction=2)],
    ids=["base", "variant"],
)
def test_features_do_not_depend_on_the_batch(front_end, block, position, changes):
    encoder = small_encoder(front_end=front_end, block=block, position=position, **changes)
    source, lengths = batch(front_end)
    for kind, layers in (("layer", (0, 1, 2)), ("ffn", (1, 2))):
        together = encoder(source, lengths, layers=layers, kind=kind)
        assert torch.equal(together.lengths, encoder.output_lengths(lengths))
        assert torch.equal((~together.padding_mask).sum(1), together.lengths)
        for row in range(3):
            alone = encoder(source[row : row + 1, : lengths[row]], lengths[row : row + 1], layers=layers, kind=kind)
            frames = int(together.lengths[row])
            assert alone.lengths.tolist() == [frames]
            torch.testing.assert_close(together.x[row, :frames], alone.x[0], atol=1e-5, rtol=0)
            for layer in layers:
                ours, theirs = together.features[layer][row, :frames], alone.features[layer][0]
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("block", ["transformer", "conformer"])
@pytest.mark.parametrize("front_end", ["waveform", "fbank", "fbank_stack"])
def test_every_parameter_gets_a_gradient(front_end, block):
    encoder = small_encoder(front_end=front_end, block=block, position="conv", norm_first=True, dropout=0.1).train()
    source, lengths = batch(front_end)
    out = encoder(source, lengths, mask=lambda frames: sample_span_mask(frames, 0.5, 2))
    out.x[~out.padding_mask].square().sum().backward()
    without = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_masked_training_does_not_depend_on_padding():
    """Gradients too: the same utterance with and without padding behind it."""
    gradients = []
    for pad in (0, 13):
        encoder = small_encoder(front_end="fbank", position="conv").double().train()
        source = torch.cat([batch("fbank")[0][:2], torch.randn(2, pad, 80)], dim=1).double()
        mask = torch.zeros(2, (55 + pad + 1) // 2, dtype=torch.bool)
        mask[:, 3:9] = True
        out = encoder(source, torch.tensor([55, 55]), mask=mask)
        out.x[~out.padding_mask].pow(3).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in encoder.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("position", ["conv", "relative_key", "rotary"])
@pytest.mark.parametrize("front_end", ["waveform", "fbank_stack"])
def test_half_precision_follows_single_precision(front_end, position):
    encoder = small_encoder(front_end=front_end, position=position)
    source, lengths = batch(front_end)
    expected = encoder(source, lengths)
    out = encoder.bfloat16()(source.bfloat16(), lengths)
    assert out.x.dtype == torch.bfloat16
    valid = ~out.padding_mask
    assert (out.x[valid] - expected.x[valid]).abs().mean() < 0.03 * expected.x[valid].abs().mean()


@pytest.mark.parametrize("front_end", ["waveform", "fbank", "fbank_stack"])
def test_front_end_alone(front_end):
    """Before masks and positions, after time reduction and input dropout; no block is run."""
    encoder = small_encoder(front_end=front_end, block="transformer", position="conv", time_reduction=2)
    source, lengths = batch(front_end)
    whole = encoder(source, lengths, mask=lambda frames: torch.ones(3, int(frames.max()), dtype=torch.bool))
    for block in encoder.blocks:
        block.forward = None
    x, frames = encoder.embed(source, lengths)
    assert torch.equal(frames, whole.lengths) and torch.equal(x, whole.front_end)
    zeroed = small_encoder(front_end=front_end, time_reduction=2, dropout_input=0.5).train().embed(source, lengths)[0]
    assert (zeroed == 0).float().mean() == pytest.approx(0.5, abs=0.1)


def test_layers_are_the_chain_of_blocks():
    encoder = small_encoder(block="transformer", norm_first=True, position="none")
    source, lengths = batch("fbank_stack")
    out = encoder(source, layers=(0, 1, 2))
    first, _ = encoder.blocks[0](out.features[0])
    second, ffn = encoder.blocks[1](first)
    torch.testing.assert_close(out.features[1], first)
    torch.testing.assert_close(out.features[2], second)
    torch.testing.assert_close(out.x, encoder.layer_norm(second))
    torch.testing.assert_close(encoder(source, layers=(2,), kind="ffn").features[2], ffn)


def test_mask_replaces_valid_frames_by_the_embedding():
    encoder = small_encoder(position="none")
    source, lengths = batch("fbank_stack")
    seen = []

    def mask(frames):
        seen.append(frames.tolist())
        return torch.ones(3, int(frames.max()), dtype=torch.bool)

    out = encoder(source, lengths, mask=mask, layers=(0,))
    assert seen == [[14, 27, 13]]
    assert torch.equal(out.mask, ~out.padding_mask)
    valid = out.features[0][out.mask]
    assert torch.equal(valid, encoder.mask_emb.expand_as(valid))
    plain = encoder(source, lengths, layers=(0,))
    assert plain.mask is None
    assert not torch.equal(plain.features[0], out.features[0])
    with pytest.raises(ConfigError, match=r"mask has shape \(3, 5\); the encoder has \(3, 27\) frames"):
        encoder(source, lengths, mask=torch.zeros(3, 5, dtype=torch.bool))


@pytest.mark.parametrize("name", ["dropout", "activation_dropout", "attention_dropout", "dropout_input"])
def test_dropout_acts_in_training_only(name):
    encoder = small_encoder(**{name: 0.5})
    source, lengths = batch("fbank_stack")
    clean = encoder(source, lengths).x
    assert torch.equal(clean, encoder(source, lengths).x)
    encoder.train()
    assert not torch.allclose(clean, encoder(source, lengths).x)


def test_layerdrop_skips_whole_blocks():
    encoder = small_encoder(layerdrop=0.5, layers=8)
    source, _ = batch("fbank_stack")
    out = encoder(source, layers=range(9))
    assert all(not torch.equal(out.features[k], out.features[k - 1]) for k in range(1, 9))
    encoder.train()
    torch.manual_seed(3)
    out = encoder(source, layers=range(9))
    skipped = [k for k in range(1, 9) if torch.equal(out.features[k], out.features[k - 1])]
    assert 0 < len(skipped) < 8
    torch.manual_seed(3)
    ffn = encoder(source, layers=range(1, 9), kind="ffn").features
    assert [k for k in ffn if not ffn[k].any()] == skipped


@pytest.mark.parametrize(
    "layers, kind, message",
    [((4,), "layer", r"\[4\] do not exist.*0\.\.2"), ((0,), "ffn", r"1\.\.2"), ((1,), "hidden", "'hidden'")],
)
def test_wrong_layers_are_named(layers, kind, message):
    encoder = small_encoder()
    with pytest.raises(ConfigError, match=message):
        encoder(batch("fbank_stack")[0], layers=layers, kind=kind)


@pytest.mark.parametrize("front_end, rate", [("waveform", 50.0), ("fbank", 50.0), ("fbank_stack", 25.0)])
def test_frame_rate_is_that_of_the_output(front_end, rate):
    encoder = small_encoder(front_end=front_end, fbank_stack=4)
    assert encoder.frame_rate_hz == rate
    source = torch.randn(1, 160_080) if front_end == "waveform" else torch.randn(1, 1000, 80)
    assert abs(encoder(source).x.size(1) / 10.0 - rate) <= 0.2
    assert small_encoder(front_end=front_end, time_reduction=2, fbank_stack=4).frame_rate_hz == rate / 2


def test_config_survives_json_and_rejects_nonsense():
    config = small_config(front_end="waveform", layerdrop=0.1)
    assert EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for values, message in [
        (dict(block="rnn"), "block='rnn'"),
        (dict(embed_dim=30), "not a multiple of attention_heads"),
        (dict(embed_dim=36, attention_heads=12, position="rotary"), "even width"),
        (dict(layers=0), "layers=0"),
        (dict(position="conv", conv_pos_groups=5), "conv_pos_groups"),
    ]:
        with pytest.raises(ConfigError, match=message):
            small_config(**values)
    with pytest.raises(ConfigError, match=r"\['depth'\]"):
        EncoderConfig.from_dict({"depth": 3})


def test_former_field_is_read_where_it_says_what_is_still_done():
    config = small_config(causal_conv=True)
    assert EncoderConfig.from_dict({**config.to_dict(), "conv_norm": "layer"}) == config
    with pytest.raises(ConfigError, match="conv_norm='batch'"):
        EncoderConfig.from_dict({**config.to_dict(), "conv_norm": "batch"})


HUBERT_SHAPE = dict(block="transformer", position="conv", front_end="waveform", attention_heads=12)


@pytest.mark.parametrize(
    "changes, count",
    [
        # Published: DistilHuBERT (= shallow and wide), deep and thin, and half width of "Deep versus Wide".
        (dict(layers=2, embed_dim=768, ffn_dim=3072, feature_norm=False), 23_491_200),
        (dict(layers=12, embed_dim=480, ffn_dim=480, feature_norm=False), 22_937_856),
        (dict(layers=12, embed_dim=480, ffn_dim=480, front_end="fbank"), 19_107_008),
        (dict(layers=12, embed_dim=384, ffn_dim=1536, attention_heads=6, feature_norm=False), 26_871_936),
        # HuBERT Base without prediction head and code embeddings: 94.4 million.
        (dict(layers=12, embed_dim=768, ffn_dim=3072), 94_370_944),
    ],
    ids=["shallow_wide", "deep_thin", "deep_thin_fbank", "half_l2l", "hubert_base"],
)
def test_parameter_counts_are_the_published_ones(changes, count):
    with torch.device("meta"):
        encoder = StudentEncoder(EncoderConfig(**{**HUBERT_SHAPE, **changes}))
    assert encoder.num_parameters() == count


@pytest.mark.parametrize("block, position", [("conformer", "rotary"), ("transformer", "conv")])
def test_torch_export_reproduces_the_encoder(block, position):
    encoder = small_encoder(block=block, position=position)
    source, lengths = batch("fbank_stack")

    class Features(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, source, lengths):
            return self.encoder(source, lengths).x

    program = torch.export.export(Features(), (source, lengths))
    expected = encoder(source, lengths)
    valid = ~expected.padding_mask
    torch.testing.assert_close(program.module()(source, lengths)[valid], expected.x[valid], atol=1e-5, rtol=0)


def test_the_fast_paths_of_the_cpu_are_used_and_change_nothing(monkeypatch):
    encoder = small_encoder(front_end="waveform", block="transformer", position="conv", conv_pos=32)
    source, lengths = batch("waveform")
    with plain_operators():
        expected = encoder(source, lengths)
    convolutions = []
    conv1d = torch.nn.functional.conv1d
    monkeypatch.setattr(torch.nn.functional, "conv1d", lambda *a, **k: (convolutions.append(1), conv1d(*a, **k))[1])
    with torch.no_grad():
        out = encoder(source, lengths)
    assert not convolutions
    valid = ~out.padding_mask
    torch.testing.assert_close(out.x[valid], expected.x[valid], atol=1e-5, rtol=0)
