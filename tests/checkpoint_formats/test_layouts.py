"""Configurations and weights for other libraries: what comes back is what was given, bit for bit, or refused."""

import dataclasses

import pytest
import torch

from colld_fairseq.checkpoints import names_fairseq, names_hf
from colld_fairseq.checkpoints.encoder import check_fits, lost_fields
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.modules.encoder_config import CHOICES
from colld_fairseq.modules.input_config import InputConfig

HF_HUBERT, HF_W2V_BERT, FAIRSEQ_HUBERT = names_hf.HUBERT, names_hf.BERT, names_fairseq.HUBERT
CONV_LAYERS = [[16, 10, 5], [16, 3, 4], [16, 2, 2]]
SIZES = dict(layers=2, embed_dim=24, ffn_dim=40, attention_heads=4)
HUBERT = EncoderConfig(
    front_end="waveform", block="transformer", position="conv", conv_pos=6, conv_pos_groups=2, conv_layers=CONV_LAYERS,
    **SIZES,
)  # fmt: skip
BERT = EncoderConfig(
    front_end="fbank_stack", block="conformer", position="relative_key", max_left_position=5, max_right_position=2,
    depthwise_conv_kernel=5, causal_conv=True, activation="swish", conv_pos_groups=2, **SIZES,
)  # fmt: skip
NATIVE = {"transformer": (HF_HUBERT, FAIRSEQ_HUBERT), "conformer": (HF_W2V_BERT,)}
LARGE = dict(extractor_norm="layer", norm_first=True)
VARIANTS = {
    "group, post-norm": HUBERT,
    "layer, pre-norm": dataclasses.replace(HUBERT, **LARGE),
    "layer, pre-norm, bias": dataclasses.replace(HUBERT, **LARGE, conv_bias=True),
    "layer, post-norm, dropouts": dataclasses.replace(
        HUBERT, extractor_norm="layer", dropout=0.1, attention_dropout=0.2, activation_dropout=0.3, dropout_input=0.4,
        layerdrop=0.05, activation="relu",
    ),
}  # fmt: skip


def of_hf(state, config):
    return names_hf.layout_of(config).names.to_ours(state, config, None, "there")


def of_fairseq(state, config):
    state = names_fairseq.with_projection(state, config)
    return names_fairseq.WAV2VEC.to_ours(state, config, None, "there")


def weights(config):
    torch.manual_seed(0)
    encoder = StudentEncoder(config)
    for parameter in encoder.parameters():  # each its own values: norms start alike
        parameter.data.normal_()
    return encoder.state_dict()


def assert_identical(ours, again):
    assert ours.keys() == again.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, again[name]), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_hubert_there_and_back(variant):
    config = VARIANTS[variant]
    state = weights(config)
    for layout in (HF_HUBERT, FAIRSEQ_HUBERT):
        again = dataclasses.replace(layout.read(*layout.write(config)), fbank_stack=config.fbank_stack, input=None)
        assert again == config
    assert_identical(state, of_hf(HF_HUBERT.names.to_theirs(state), config))
    assert_identical(state, of_fairseq(names_fairseq.hubert_weights(state, config), config))


def test_hubert_without_feature_norm_fits_transformers_only():
    config = dataclasses.replace(HUBERT, feature_norm=False)
    state = weights(config)
    check_fits(config, HF_HUBERT)
    assert_identical(state, of_hf(HF_HUBERT.names.to_theirs(state), config))
    with pytest.raises(ConfigError, match=r"fairseq:FILE.pt .* no place for feature_norm=False \(always True there\)"):
        check_fits(config, FAIRSEQ_HUBERT)


@pytest.mark.parametrize("position", ["relative_key", "none"])
def test_w2v_bert_there_and_back(position):
    config = dataclasses.replace(BERT, position=position)
    state = weights(config)
    check_fits(config, HF_W2V_BERT)
    exported = HF_W2V_BERT.names.to_theirs(state)
    assert exported["encoder.layers.1.conv_module.pointwise_conv1.weight"].shape == (48, 24, 1)
    assert_identical(state, of_hf(exported, config))


def test_exports_are_copies():
    state = weights(HUBERT)
    before = {name: tensor.clone() for name, tensor in state.items()}
    for tensor in HF_HUBERT.names.to_theirs(state).values():
        tensor.zero_()
    assert_identical(before, state)


def test_fairseq_without_projection():
    """Where extractor and encoder are equally wide fairseq has none: ours must be the identity."""
    config = dataclasses.replace(HUBERT, conv_layers=[[24, 10, 5], [24, 4, 4]])
    state = weights(config)
    with pytest.raises(ConfigError, match=r"embed_dim=24.*not the identity.*hf:DIR or colld:FILE.pt"):
        names_fairseq.hubert_weights(state, config)
    state["front_end.projection.weight"], state["front_end.projection.bias"] = torch.eye(24), torch.zeros(24)
    exported = names_fairseq.hubert_weights(state, config)
    assert not any("post_extract_proj" in name for name in exported)
    assert_identical(state, of_fairseq(exported, config))


# what none of the targets, or only some, can hold
@pytest.mark.parametrize(
    "base, changes, able",
    [
        (HUBERT, dict(time_reduction=2), []),
        (HUBERT, dict(front_end="fbank"), []),
        (HUBERT, dict(front_end="fbank_stack"), []),
        (HUBERT, dict(position="none"), []),
        (HUBERT, dict(position="rotary"), []),
        (HUBERT, dict(position="relative_key"), []),
        (HUBERT, dict(activation="swish"), [HF_HUBERT]),
        (HUBERT, dict(layer_norm_eps=1e-6), [HF_HUBERT]),
        (BERT, dict(position="rotary"), []),
        (BERT, dict(causal_conv=False), []),
        (BERT, dict(feature_norm=False), []),
        (BERT, dict(fbank_bins=40), []),
        (BERT, dict(time_reduction=2), []),
        (BERT, dict(fbank_stack=4), [HF_W2V_BERT]),
        (BERT, dict(layer_norm_eps=1e-6), [HF_W2V_BERT]),
    ],
)
def test_what_does_not_fit_is_named_with_the_targets_that_hold_it(base, changes, able):
    config = dataclasses.replace(base, **changes)
    ((field, value),) = changes.items()
    for layout in NATIVE[base.block]:
        if layout in able:
            check_fits(config, layout)
            continue
        with pytest.raises(ConfigError) as error:
            check_fits(config, layout)
        message = str(error.value)
        assert f"{field}={value!r}" in message
        assert message.endswith(" or ".join([target.name for target in able] + ["colld:FILE.pt"]))


@pytest.mark.parametrize("base", [HUBERT, BERT], ids=["hubert", "w2v-bert"])
def test_every_field_is_kept_or_named_or_without_effect(base):
    """Also fields that somebody adds later: no target may drop one silently."""
    for field, value in base.to_dict().items():
        if field in ("feature_grad_mult", "input"):  # acts on gradients alone; has a test of its own
            continue
        if field == "context" and base.block == "transformer":  # there is no other
            continue
        config = dataclasses.replace(base, **{field: another(field, value)})
        for layout in NATIVE[base.block]:
            kept = getattr(layout.read(*layout.write(config)), field) == getattr(config, field)
            assert kept or field in lost_fields(config, layout) or same_model(base, config), field


def waveforms(normalization, variance_floor=1e-5):
    return InputConfig("waveform", normalization=normalization, variance_floor=variance_floor)


CORPUS = InputConfig(normalization="corpus", mean=[1.0] * 80, std=[2.0] * 80)


@pytest.mark.parametrize(
    "base, given, fits",
    [
        (HUBERT, waveforms("none"), True),
        (HUBERT, waveforms("utterance"), True),
        (HUBERT, waveforms("utterance", 1e-7), True),  # the libraries' constants are no other input
        (BERT, InputConfig(), True),
        (BERT, InputConfig(normalization="none"), False),
        (BERT, CORPUS, False),
    ],
)
def test_the_input_is_kept_or_named(base, given, fits):
    config = dataclasses.replace(base, input=given)
    for layout in NATIVE[base.block]:
        if not fits:
            with pytest.raises(
                ConfigError, match="no place for input=kaldi filterbanks .*can be written as .*colld:FILE.pt"
            ):
                check_fits(config, layout)
            continue
        check_fits(config, layout)
        again = layout.read(*layout.write(config)).input
        assert dataclasses.replace(again, variance_floor=given.variance_floor) == given


def another(field, value):
    choices = [choice for choice in CHOICES.get(field, ()) if choice != value]
    if choices:
        return choices[0]
    if isinstance(value, bool):
        return not value
    return {"activation": "relu", "conv_layers": [[8, 10, 5]]}.get(field) or 2 * value or 0.1


def same_model(first, second):
    """Whether two configurations give the same features with the same weights."""
    first, second = StudentEncoder(first).eval(), StudentEncoder(second).eval()
    if {n: t.shape for n, t in first.state_dict().items()} != {n: t.shape for n, t in second.state_dict().items()}:
        return False
    second.load_state_dict(first.state_dict())
    source = torch.randn(1, 1000) if first.config.front_end == "waveform" else torch.randn(1, 40, 80)
    with torch.no_grad():
        ours, theirs = first(source).x, second(source).x
    return ours.shape == theirs.shape and torch.equal(ours, theirs)
