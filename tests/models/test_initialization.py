"""Students started from published checkpoints: which weights arrive, and that they compute the same."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
import transformers
from task_setup import fake_task

from colld_fairseq.checkpoints.names_hf import config_from_hf
from colld_fairseq.errors import CheckpointError, ConfigError
from colld_fairseq.models.colld_student import ColldStudent, ColldStudentConfig, parse_layers, start_student
from colld_fairseq.models.encoder_options import encoder_config, record_encoder
from colld_fairseq.models.encoder_presets import PRESETS
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder

COMMON = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4)
CONVOLUTIONS = dict(conv_dim=[16] * 7, conv_kernel=[10, 3, 3, 3, 3, 2, 2], conv_stride=[5, 2, 2, 2, 2, 2, 2])
CONV_LAYERS = [list(layer) for layer in zip(*CONVOLUTIONS.values())]
HUBERT_STUDENT = dict(PRESETS["distilhubert"], embed_dim=32, ffn_dim=48, attention_heads=4, conv_layers=CONV_LAYERS)


def saved(model, folder):
    with torch.no_grad():  # norms start as the identity and would hide a mistake
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    model.eval().save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def hubert(tmp_path_factory):
    """(spec, model): 4 layers."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hubert")
    config = transformers.HubertConfig(**COMMON, **CONVOLUTIONS, num_hidden_layers=4)
    return f"hf:{folder}", saved(transformers.HubertModel(config), folder)


@pytest.fixture(scope="module")
def w2v_bert(tmp_path_factory):
    """(spec, model): 24 layers, as published."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("w2v_bert")
    config = transformers.Wav2Vec2BertConfig(**COMMON, num_hidden_layers=24)
    return f"hf:{folder}", saved(transformers.Wav2Vec2BertModel(config), folder)


def student(**values):
    torch.manual_seed(9)
    return StudentEncoder(EncoderConfig.from_dict(values)).eval()


@torch.no_grad()
def test_distilhubert_start_is_the_first_two_layers(hubert, caplog):
    spec, model = hubert
    encoder = student(**dict(HUBERT_STUDENT, feature_norm=True))
    with caplog.at_level("INFO"):
        start_student(encoder, spec, "1,2")
    assert "at random: nothing" in caplog.text
    waveform = torch.randn(2, 4000)
    features = encoder(waveform, layers=(0, 1, 2)).features
    hidden = model(waveform, output_hidden_states=True).hidden_states
    for layer in (0, 1, 2):
        torch.testing.assert_close(features[layer], hidden[layer], atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_preset_without_feature_norm_takes_all_but_that_norm(hubert):
    spec, model = hubert
    encoder = student(**HUBERT_STUDENT)
    start_student(encoder, spec, "1,2")
    assert torch.equal(encoder.front_end.layers[6].conv.weight, model.feature_extractor.conv_layers[6].conv.weight)
    assert torch.equal(encoder.front_end.projection.weight, model.feature_projection.projection.weight)
    theirs = model.encoder.layers[1].feed_forward.output_dense.weight
    assert torch.equal(encoder.blocks[1].ffn.linear_out.weight, theirs)


@torch.no_grad()
def test_half_of_w2v_bert_equals_the_teacher_cut_to_every_second_layer(w2v_bert):
    spec, model = w2v_bert
    values = dict(PRESETS["conformer_1024"], embed_dim=32, ffn_dim=48, attention_heads=4)
    encoder = student(**values)
    start_student(encoder, spec)
    fbank = torch.randn(2, 60, 80)
    output = encoder(fbank, layers=range(13))
    model.encoder.layers, whole = model.encoder.layers[1::2], model.encoder.layers
    hidden = model(fbank.view(2, 30, 160), output_hidden_states=True).hidden_states
    model.encoder.layers = whole
    assert len(hidden) == 13
    for layer, theirs in enumerate(hidden):
        torch.testing.assert_close(output.features[layer], theirs, atol=1e-4, rtol=0)


def test_conformer_1024_has_the_blocks_of_w2v_bert():
    published = config_from_hf({"model_type": "wav2vec2-bert"}).to_dict()
    ours = EncoderConfig.from_dict(PRESETS["conformer_1024"]).to_dict()
    differ = {name for name in ours if ours[name] != published[name]}
    assert differ == {"layers", "layerdrop", "input"}  # a new student is told its input by the task


@torch.no_grad()
def test_fairseq_checkpoint(tmp_path):
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model

    cfg = Wav2Vec2Config(
        encoder_layers=3,
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=48,
        encoder_attention_heads=4,
        conv_feature_layers="[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2",
    )
    model = Wav2Vec2Model(cfg)
    plain = json.loads(json.dumps({k: str(v) if "." in type(v).__module__ else v for k, v in vars(cfg).items()}))
    file = tmp_path / "wav2vec2.pt"
    torch.save({"cfg": {"model": dict(plain, _name="wav2vec2"), "task": {}}, "model": model.state_dict()}, file)
    encoder = student(**dict(HUBERT_STUDENT, feature_norm=True))
    start_student(encoder, f"fairseq:{file}", "2,3")
    assert torch.equal(encoder.blocks[1].ffn.linear_in.weight, model.encoder.layers[2].fc1.weight)


def test_other_width_takes_the_extractor_only_when_asked(hubert):
    spec, model = hubert
    values = dict(HUBERT_STUDENT, embed_dim=64, feature_norm=True)
    with pytest.raises(ConfigError, match=r"embed_dim \(teacher 32, student 64\).*--init-layers none"):
        start_student(student(**values), spec)
    encoder = student(**values)
    before = encoder.blocks[0].ffn.linear_in.weight.clone()
    start_student(encoder, spec, "none")
    assert torch.equal(encoder.front_end.layers[3].conv.weight, model.feature_extractor.conv_layers[3].conv.weight)
    assert torch.equal(encoder.blocks[0].ffn.linear_in.weight, before)


def test_mistakes_are_named(hubert, w2v_bert, tmp_path):
    conformer = student(block="conformer", layers=2, embed_dim=32, ffn_dim=48, attention_heads=4)
    with pytest.raises(ConfigError, match=r"block \(teacher 'transformer', student 'conformer'\)"):
        start_student(conformer, hubert[0])
    with pytest.raises(ConfigError, match="position"):  # rotary positions cannot take w2v-BERT's blocks
        start_student(conformer, w2v_bert[0])
    encoder = student(**HUBERT_STUDENT)
    with pytest.raises(ConfigError, match=r"blocks \[5\] do not exist; the teacher has 1\.\.4"):
        start_student(encoder, hubert[0], "1,5")
    with pytest.raises(ConfigError, match="3 teacher blocks given for 2 student blocks"):
        start_student(encoder, hubert[0], "1,2,3")
    with pytest.raises(ConfigError, match="write hf:DIR, fairseq:FILE.pt, fairseq2:FILE.pt or colld:FILE.pt"):
        start_student(encoder, hubert[0].removeprefix("hf:"))
    with pytest.raises(CheckpointError, match="no such directory"):
        start_student(encoder, f"hf:{tmp_path}/absent")
    with pytest.raises(ConfigError, match="--init-layers 'first'"):
        parse_layers("first")


def options(spec, **changes):
    """Options of a student of width 32 that can be built beside a teacher of four layers."""
    cfg = ColldStudentConfig(
        encoder_preset="conformer_1024",
        encoder_layers=2,
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=48,
        encoder_attention_heads=4,
        layer_map="dense",
        init_from=spec,
    )
    return dataclasses.replace(cfg, **changes)


def task_of(layers=4):
    info = SimpleNamespace(num_layers=layers, width=24, frame_rate_hz=50.0)
    return fake_task(info)


def test_model_starts_from_the_checkpoint_once(w2v_bert):
    spec, model = w2v_bert
    cfg = options(spec)
    weight = ColldStudent.build_model(cfg, task_of()).encoder.blocks[0].ffn1.linear_in.weight
    assert torch.equal(weight, model.encoder.layers[11].ffn1.intermediate_dense.weight)
    # A checkpoint's options carry the encoder's configuration: the file is not needed again.
    record_encoder(cfg, encoder_config(cfg))
    cfg.init_from = "hf:/gone"
    assert ColldStudent.build_model(cfg, task_of()).encoder.config == encoder_config(cfg)
    with pytest.raises(CheckpointError):
        ColldStudent.build_model(options("hf:/gone"), task_of())


@pytest.mark.parametrize("preset", ["small", "half_l2l"])
def test_all_trained_parameters_get_a_gradient(preset, caplog):
    """None waits for a gradient that never comes, which would stop distributed training."""
    cfg = options("", encoder_preset=preset, encoder_layers=3, layer_map="1:1,2:4", mask_prob=0.0)
    model = ColldStudent.build_model(cfg, task_of())
    assert "blocks 3 to 3 are above the highest distilled layer 2" in caplog.text
    waveform = model.encoder.config.front_end == "waveform"
    source = torch.randn(2, 4000) if waveform else torch.randn(2, 40, 80)
    lengths = torch.tensor([source.size(1)] * 2)
    sum(p.square().mean() for p in model(source, lengths).predictions).backward()
    lacking = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    idle = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert not lacking
    assert idle == {"encoder.mask_emb"} | {name for name in idle if name.startswith("encoder.blocks.2.")}
    assert len(idle) > 5


def test_prenorm_final_norm_is_idle():
    cfg = options("", encoder_preset="half_l2l", layer_map="1:1,2:2")
    config = dict(encoder_config(cfg).to_dict(), norm_first=True)
    cfg.encoder_config = json.dumps(config)
    model = ColldStudent.build_model(cfg, task_of())
    assert not model.encoder.layer_norm.weight.requires_grad and model.encoder.mask_emb.requires_grad


def test_shared_head_wants_one_student_layer():
    with pytest.raises(ConfigError, match="--head shared.*names several"):
        ColldStudent.build_model(options("", head="shared"), task_of())
