"""Options to encoder: architectures, overrides, recorded configurations, and half precision."""

import json
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from fairseq import models, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from task_setup import fake_task

import colld_fairseq  # noqa: F401 - registers the models
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.regression import regression_loss
from colld_fairseq.models.colld_student import ColldStudent, ColldStudentConfig
from colld_fairseq.models.encoder_options import (
    OVERRIDES,
    REGULARIZERS,
    build_encoder,
    encoder_config,
    record_encoder,
    warn_of_shape,
)
from colld_fairseq.models.encoder_presets import PRESETS
from colld_fairseq.models.student_s2t import StudentS2TConfig

CHANGES = {
    "front_end": "fbank",
    "fbank_stack": 3,
    "conv_feature_layers": "[(16, 10, 5)] + [(8, 2, 2)] * 2",
    "encoder_block": "transformer",
    "encoder_layers": 3,
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 56,
    "encoder_attention_heads": 2,
    "encoder_position": "none",
    "conv_pos": 32,
    "conv_pos_groups": 4,
    "depthwise_conv_kernel": 9,
    "dropout": 0.11,
    "attention_dropout": 0.12,
    "activation_dropout": 0.13,
    "dropout_input": 0.14,
    "encoder_layerdrop": 0.15,
}


def parse(*arguments):
    """The model's options after fairseq-train has parsed `arguments`."""
    parser = options.get_training_parser()
    base = ["data", "--task", "speech_distillation", "--criterion", "colld"]
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, [*base, *arguments])).model


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_changes_its_field_and_nothing_else(option):
    field = {**OVERRIDES, **REGULARIZERS}[option]
    default = encoder_config(ColldStudentConfig()).to_dict()
    changed = encoder_config(ColldStudentConfig(**{option: CHANGES[option]})).to_dict()
    assert {name for name in default if default[name] != changed[name]} == {field}
    expected = [[16, 10, 5], [8, 2, 2], [8, 2, 2]] if field == "conv_layers" else CHANGES[option]
    assert changed[field] == expected


def test_convolutions_are_read_not_run():
    with pytest.raises(ConfigError, match="conv_feature_layers"):
        encoder_config(ColldStudentConfig(conv_feature_layers="[(int('8'), 10, 5)]"))


def test_gradient_of_the_convolutions_also_beside_a_recorded_shape():
    """Distilled with a factor of 0.1 (the preset's), fine-tuned with the one that is asked for."""
    cfg = ColldStudentConfig(encoder_preset="distilhubert")
    record_encoder(cfg, encoder_config(cfg))
    assert encoder_config(cfg).feature_grad_mult == 0.1
    cfg.feature_grad_mult = 0.0
    assert encoder_config(cfg).feature_grad_mult == 0.0


def test_no_option_is_left_out():
    assert set(CHANGES) == {*OVERRIDES, *REGULARIZERS}


@pytest.mark.parametrize("model", ["colld_student", "student_ctc", "student_s2t", "transducer_student"])
def test_an_architecture_is_a_model_with_a_preset(model):
    names = [name for name in models.ARCH_MODEL_INV_REGISTRY[model] if name.startswith(f"{model}_")]
    assert names
    for name in names:
        arguments = Namespace()
        models.ARCH_CONFIG_REGISTRY[name](arguments)
        assert vars(arguments) == {"encoder_preset": name[len(model) + 1 :]} and arguments.encoder_preset in PRESETS


def test_architecture_from_the_command_line():
    cfg = parse("--arch", "colld_student_small")
    assert encoder_config(cfg).to_dict() == encoder_config(ColldStudentConfig(encoder_preset="small")).to_dict()


def test_typed_flags_win_over_the_architecture():
    cfg = parse("--arch", "colld_student_small", "--encoder-layers", "5", "--dropout", "0.2")
    config = encoder_config(cfg)
    assert (config.layers, config.dropout, config.embed_dim) == (5, 0.2, 384)
    cfg = parse("--arch", "colld_student_small", "--encoder-preset", "base")
    assert encoder_config(cfg).embed_dim == 768
    assert encoder_config(parse("--arch", "colld_student", "--encoder-preset", "half_l2l")).block == "transformer"


def test_unknown_preset_is_named():
    with pytest.raises(ConfigError, match="--encoder-preset 'big': choose one of conformer_1024, base"):
        encoder_config(ColldStudentConfig(encoder_preset="big"))


@pytest.mark.parametrize("make", [lambda cfg: cfg, OmegaConf.structured], ids=["dataclass", "omegaconf"])
def test_recorded_encoder_wins_over_preset_and_overrides(make):
    recorded = encoder_config(ColldStudentConfig(encoder_preset="tiny", encoder_layers=2, dropout=0.3))
    cfg = make(StudentS2TConfig(encoder_preset="base", encoder_layers=9, dropout=0.1))
    if OmegaConf.is_config(cfg):
        OmegaConf.set_struct(cfg, True)
        OmegaConf.set_readonly(cfg, False)
    record_encoder(cfg, recorded)
    config = encoder_config(cfg)
    assert (config.layers, config.embed_dim) == (2, recorded.embed_dim)
    assert config.dropout == 0.1, "dropout belongs to the run, not to the shape"
    assert build_encoder(cfg).num_layers == 2


def test_a_shape_that_the_student_does_not_have_is_told(caplog):
    """A recipe's options of a new encoder stay beside --student, whose shape wins."""
    recorded = encoder_config(ColldStudentConfig(encoder_preset="tiny", encoder_layers=2))
    warn_of_shape(StudentS2TConfig(encoder_layers=2), recorded)
    assert not caplog.text
    warn_of_shape(StudentS2TConfig(encoder_layers=3, encoder_embed_dim=recorded.embed_dim), recorded)
    (record,) = caplog.records
    assert record.getMessage().startswith("--encoder-layers 3 has no effect") and "which has 2" in record.getMessage()


def test_a_distillation_is_not_decoded():
    task = SimpleNamespace()  # one of recognition has no teachers
    with pytest.raises(ConfigError, match="distillation gives no hypotheses: fine-tune it with text first"):
        ColldStudent.build_model(ColldStudentConfig(encoder_preset="tiny"), task)


def narrow_student(**changes):
    shape = dict(encoder_layers=2, encoder_embed_dim=32, encoder_ffn_embed_dim=48, encoder_attention_heads=2)
    cfg = ColldStudentConfig(**{"layer_map": "1:1,2:2", **shape, **changes})
    info = SimpleNamespace(num_layers=2, width=24, frame_rate_hz=50.0)
    torch.manual_seed(0)
    return ColldStudent.build_model(cfg, fake_task(info))


HEADS = [
    (dict(head="mlp"), lambda heads: heads.heads[0][0].out_features, 32),
    (dict(head="mlp", head_hidden=20), lambda heads: heads.heads[0][0].out_features, 20),
    (dict(head="mlp"), lambda heads: type(heads.heads[0][1]).__name__, "GELU"),
    (dict(head="mlp", head_activation="relu"), lambda heads: type(heads.heads[0][1]).__name__, "ReLU"),
    (dict(head="linear"), lambda heads: heads.heads[0].bias is None, False),
    (dict(head="linear", no_head_bias=True), lambda heads: heads.heads[0].bias is None, True),
    (dict(head="shared", layer_map="2:1,2:2"), lambda heads: heads.trunk[0].out_features, 64),
    (dict(encoder_preset="fithubert"), lambda heads: heads.upsample_factor, 1),
    (dict(encoder_preset="fithubert", upsample_heads=True), lambda heads: heads.upsample_factor, 2),
]


@pytest.mark.parametrize("changes, look, expected", HEADS)
def test_head_options(changes, look, expected):
    assert look(narrow_student(**changes).heads) == expected


BF16 = [
    (preset, torch.bfloat16, 0.05)
    for preset in ("tiny", "conformer_1024", "half_l2l", "lighthubert_small", "usad_small", "fithubert")
]
FP16 = [(preset, torch.float16, 0.005) for preset in ("tiny", "conformer_1024", "fithubert")]


@pytest.mark.parametrize("preset, dtype, tolerance", BF16 + FP16)
def test_half_precision_model_with_float32_loss(preset, dtype, tolerance):
    """fairseq's --bf16 and --fp16 convert weights and inputs; predictions stay near, the loss is float32."""
    model = narrow_student(encoder_preset=preset, mask_prob=0.0).eval()
    waveform = model.encoder.config.front_end == "waveform"
    source = 0.1 * torch.randn(2, 4000) if waveform else torch.randn(2, 48, 80)
    lengths = torch.tensor([source.size(1), source.size(1) * 3 // 4])
    with torch.no_grad():
        exact = model(source, lengths).predictions[1]
    model.to(dtype)
    output = model(source.to(dtype), lengths)
    prediction = output.predictions[1]
    assert prediction.dtype == dtype
    valid = torch.arange(prediction.size(1)) < output.lengths[:, None]
    deviation = (prediction.float() - exact)[valid].norm() / exact[valid].norm()
    assert deviation < tolerance
    loss = regression_loss(prediction, torch.randn_like(exact), valid).loss_sum
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(g.dtype == dtype and torch.isfinite(g).all() for g in gradients)


def test_masked_bfloat16_keeps_its_type():
    model = narrow_student().bfloat16()
    output = model(torch.randn(2, 96, 80).bfloat16(), torch.tensor([96, 80]))
    assert output.mask.any() and output.predictions[0].dtype == torch.bfloat16


def test_recorded_configuration_is_json():
    cfg = ColldStudentConfig()
    record_encoder(cfg, encoder_config(cfg))
    assert json.loads(cfg.encoder_config)["layers"] == 6


@pytest.mark.parametrize("checkpointed, compiled", [(False, False), (True, False), (False, True)])
def test_ways_to_run_blocks_reach_the_encoder_and_no_shape(checkpointed, compiled):
    options = ColldStudentConfig(checkpoint_activations=checkpointed, compile_encoder=compiled)
    runs = build_encoder(options).runs
    assert (runs.checkpointed, runs.compiled) == (checkpointed, compiled)
    assert encoder_config(options) == encoder_config(ColldStudentConfig())
