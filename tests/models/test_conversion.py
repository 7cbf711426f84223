"""Converted checkpoints, loaded by the libraries they are for: nothing missing, nothing left over, same features."""

import dataclasses
import json
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
import transformers
from fairseq import checkpoint_utils
from fairseq.models.hubert.hubert_asr import HubertAsrConfig, HubertEncoder
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from omegaconf import OmegaConf

from colld_fairseq import load_student
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.errors import ColldError, ConfigError
from colld_fairseq.models.conversion import Encoder, read_encoder, write_encoder
from colld_fairseq.models.loading import read_input, read_student
from colld_fairseq.models.native import compare, open_native
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.teachers import load_teacher

SIZES = dict(layers=3, embed_dim=24, ffn_dim=40, attention_heads=4)
CONV_LAYERS = [[16, 10, 5], [16, 3, 4], [16, 2, 2]]
HUBERT = EncoderConfig(
    front_end="waveform", block="transformer", position="conv", conv_pos=6, conv_pos_groups=2, conv_layers=CONV_LAYERS,
    **SIZES,
)  # fmt: skip
LARGE = dict(extractor_norm="layer", norm_first=True)
VARIANTS = {
    "group, post-norm": HUBERT,
    "layer, pre-norm": dataclasses.replace(HUBERT, **LARGE),
    "layer, pre-norm, bias": dataclasses.replace(HUBERT, **LARGE, conv_bias=True),
}
BERT = EncoderConfig(
    front_end="fbank_stack", block="conformer", position="relative_key", max_left_position=5, max_right_position=2,
    depthwise_conv_kernel=5, causal_conv=True, activation="swish", **SIZES,
)  # fmt: skip
LAYERS = range(SIZES["layers"] + 1)


def encoder_of(config, normalize=False, cmvn="utterance"):
    """Random weights; norms and biases too, which start neutral and would hide a mistake."""
    torch.manual_seed(3)
    encoder = StudentEncoder(config)
    for parameter in encoder.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    fbank = InputConfig(normalization=cmvn)
    heard = InputConfig.waveforms(normalize) if config.front_end == "waveform" else fbank
    return Encoder(config, encoder.state_dict(), StudentInput(heard))


def features_of(encoder, source):
    """(layers [T, D] by number, output [T, D]) of one input."""
    student = StudentEncoder(encoder.config).eval()
    student.load_state_dict(encoder.state)
    with torch.no_grad():
        output = student(source[None], layers=LAYERS)
    return {layer: value[0] for layer, value in output.features.items()}, output.x[0]


def waveform():
    torch.manual_seed(4)
    return 0.1 * torch.randn(4801) + 0.02


def assert_back(spec, encoder):
    """Reading what was written gives the same weights, configuration and input."""
    heard = open_native(spec).heard
    again = read_encoder(spec, heard)
    assert dataclasses.replace(heard.config, variance_floor=1e-5) == encoder.heard.config  # each library has its own
    assert again.state.keys() == encoder.state.keys()
    for name, tensor in encoder.state.items():
        assert torch.equal(tensor, again.state[name]), name
    return again


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_hubert_of_transformers(variant, normalize, tmp_path):
    encoder = encoder_of(VARIANTS[variant], normalize)
    write_encoder("hf", tmp_path / "hubert", encoder)
    model, report = transformers.AutoModel.from_pretrained(tmp_path / "hubert", output_loading_info=True)
    assert type(model) is transformers.HubertModel
    assert not any(report.values()), report
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "hubert")
    assert extractor.do_normalize == normalize and extractor.sampling_rate == 16000
    inputs = extractor(waveform().numpy(), sampling_rate=16000, return_tensors="pt")
    layers, output = features_of(encoder, inputs["input_values"][0])
    with torch.no_grad():
        theirs = model(**inputs, output_hidden_states=True)
    torch.testing.assert_close(theirs.last_hidden_state[0], output, atol=1e-5, rtol=0)
    for layer in (0, 1, 2):
        torch.testing.assert_close(theirs.hidden_states[layer][0], layers[layer], atol=1e-5, rtol=0)
    again = assert_back(f"hf:{tmp_path}/hubert", encoder).config
    assert dataclasses.replace(again, input=None) == encoder.config


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_hubert_of_fairseq(variant, normalize, tmp_path):
    encoder = encoder_of(VARIANTS[variant], normalize)
    path = tmp_path / "hubert.pt"
    write_encoder("fairseq", path, encoder)
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)])  # strict
    assert type(model).__name__ == "HubertModel"
    assert task.cfg.normalize is normalize and task.cfg.sample_rate == 16000
    layers, output = features_of(encoder, waveform())
    model.eval()
    with torch.no_grad():
        final, _ = model.extract_features(waveform()[None], mask=False)
        first, _ = model.extract_features(waveform()[None], mask=False, output_layer=1)
    torch.testing.assert_close(final[0], output, atol=1e-5, rtol=0)
    torch.testing.assert_close(first[0], layers[1], atol=1e-5, rtol=0)
    again = assert_back(f"fairseq:{path}", encoder).config
    assert dataclasses.replace(again, input=None) == encoder.config
    # and as a teacher
    teacher = load_teacher(f"fairseq:{path}", list(LAYERS))
    heard = torch.from_numpy(encoder.heard(waveform().numpy()))
    layers, _ = features_of(encoder, heard)
    theirs = teacher(waveform()[None], torch.tensor([4801]))
    for layer in LAYERS:
        torch.testing.assert_close(theirs.features[layer][0], layers[layer], atol=1e-4, rtol=0)


def test_fairseq_fine_tunes_it(tmp_path):
    """fairseq's recogniser takes it as --w2v-path, and insists on the normalisation of the file."""
    encoder = encoder_of(HUBERT, normalize=True)
    write_encoder("fairseq", tmp_path / "hubert.pt", encoder)
    cfg = OmegaConf.structured(HubertAsrConfig(w2v_path=str(tmp_path / "hubert.pt"), normalize=True, data="."))
    OmegaConf.set_struct(cfg, False)
    recogniser = HubertEncoder(cfg, SimpleNamespace(target_dictionary=None))
    weight = recogniser.w2v_model.encoder.layers[1].fc1.weight
    assert torch.equal(weight, encoder.state["blocks.1.ffn.linear_in.weight"])
    cfg.normalize = False
    with pytest.raises(AssertionError, match="normalize"):
        HubertEncoder(cfg, SimpleNamespace(target_dictionary=None))


def test_w2v_bert_of_transformers(tmp_path):
    encoder = encoder_of(BERT)
    write_encoder("hf", tmp_path / "bert", encoder)
    model, report = transformers.AutoModel.from_pretrained(tmp_path / "bert", output_loading_info=True)
    assert type(model) is transformers.Wav2Vec2BertModel
    assert not any(report.values()), report
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "bert")
    assert (extractor.stride, extractor.num_mel_bins) == (2, 80)
    fbank = torch.randn(21, 80)
    layers, output = features_of(encoder, fbank)
    with torch.no_grad():
        theirs = model(fbank[:20].view(1, 10, 160), output_hidden_states=True)
    torch.testing.assert_close(theirs.last_hidden_state[0], output, atol=1e-5, rtol=0)
    torch.testing.assert_close(theirs.hidden_states[1][0], layers[1], atol=1e-5, rtol=0)
    assert_back(f"hf:{tmp_path}/bert", encoder)


@pytest.mark.parametrize("front_end", ["waveform", "fbank"])
def test_checkpoint_of_ours(front_end, tmp_path, finetuning):
    """Whatever the encoder is; a recogniser starts from it."""
    config = dataclasses.replace(HUBERT, front_end=front_end, time_reduction=2, position="none")
    heard = dict(normalize=True) if front_end == "waveform" else dict(cmvn="none")
    encoder = encoder_of(config, **heard)
    path = str(tmp_path / "student.pt")
    write_encoder("colld", path, encoder)
    assert read_input(path) == encoder.heard
    config = dataclasses.replace(config, input=encoder.heard.config)
    assert read_student(path)[0] == config
    assert_back(f"colld:{path}", encoder)
    weights = load_student(path).state_dict()
    recogniser = finetuning("--student", path).model.encoder.student
    assert recogniser.config == config
    for name, tensor in recogniser.state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert checkpoint_utils.load_checkpoint_to_cpu(path)["cfg"].model._name == "colld_student"


def test_there_and_back_through_all_formats(tmp_path):
    encoder = encoder_of(VARIANTS["layer, pre-norm, bias"], normalize=True)
    write_encoder("colld", tmp_path / "a.pt", encoder)
    specs = [f"colld:{tmp_path}/a.pt"]
    for scheme, name in (("hf", "b"), ("fairseq", "c.pt"), ("hf", "d"), ("colld", "e.pt")):
        write_encoder(scheme, tmp_path / name, assert_back(specs[-1], encoder))
        specs.append(f"{scheme}:{tmp_path}/{name}")
    assert dataclasses.replace(read_student(tmp_path / "e.pt")[0], input=None) == encoder.config
    source = open_native(specs[0])
    for spec in specs[1:]:
        rows = compare(source, open_native(spec, complete=True), waveform().numpy())
        assert [row.layer for row in rows] == ["input", "0", "1", "2", "3", "output"]
        assert all(row.difference <= 1e-5 < 0.1 < row.largest for row in rows[1:])


def test_half_precision_stays(tmp_path):
    encoder = encoder_of(HUBERT)
    half = encoder._replace(state={name: tensor.half() for name, tensor in encoder.state.items()})
    for scheme, name in (("hf", "half"), ("fairseq", "half.pt"), ("colld", "ours.pt")):
        write_encoder(scheme, tmp_path / name, half)
        again = read_encoder(f"{scheme}:{tmp_path}/{name}", half.heard)
        assert all(torch.equal(tensor, again.state[key]) for key, tensor in half.state.items())
        assert again.state["pos_conv.bias"].dtype == torch.float16
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"


def test_wav2vec2_becomes_hubert(tmp_path):
    """The two have the same encoder; the quantiser of pre-training stays behind."""
    settings = dict(encoder_layers=3, encoder_embed_dim=24, encoder_ffn_embed_dim=40, encoder_attention_heads=4)
    settings.update(conv_feature_layers=str([tuple(layer) for layer in CONV_LAYERS]), conv_pos=6, conv_pos_groups=2)
    model = Wav2Vec2Model(Wav2Vec2Config(**settings, quantize_targets=True, final_dim=4, latent_vars=4)).eval()
    pretrained = {"_name": "wav2vec2", **settings}
    files = {
        "cfg.pt": {"cfg": {"model": pretrained, "task": {"normalize": True}}, "model": model.state_dict()},
        "args.pt": {"args": Namespace(arch="wav2vec2", **settings, normalize=True), "model": model.state_dict()},
        "ctc.pt": {
            "cfg": {"model": {"_name": "wav2vec_ctc", "w2v_args": {"model": pretrained}}, "task": {"normalize": True}},
            "model": {f"w2v_encoder.w2v_model.{name}": tensor for name, tensor in model.state_dict().items()},
        },
    }
    for name, checkpoint in files.items():
        torch.save(checkpoint, tmp_path / name)
        spec = f"fairseq:{tmp_path}/{name}"
        source = open_native(spec)
        assert source.heard == StudentInput(InputConfig.waveforms(normalize=True))
        folder = tmp_path / name.removesuffix(".pt")
        write_encoder("hf", folder, read_encoder(spec, source.heard))
        hubert = transformers.HubertModel.from_pretrained(folder).eval()
        with torch.no_grad():
            expected = model.extract_features(waveform()[None], padding_mask=None)["x"]
            torch.testing.assert_close(hubert(waveform()[None]).last_hidden_state, expected, atol=1e-5, rtol=0)
        rows = compare(source, open_native(f"hf:{folder}", complete=True), waveform().numpy())
        assert all(row.within(1e-5) for row in rows[1:])


def test_models_with_parts_that_would_be_lost_are_refused(tmp_path):
    tiny = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=40)
    (tmp_path / "wavlm").mkdir()
    (tmp_path / "wavlm" / "config.json").write_text(json.dumps({"model_type": "wavlm", **tiny}))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "config.json").write_text(json.dumps({"model_type": "wav2vec2-bert", "add_adapter": True}))
    heard = StudentInput(InputConfig.waveforms())
    with pytest.raises(ConfigError, match="WavLM's gated relative positions.*--init-from"):
        read_encoder(f"hf:{tmp_path}/wavlm", heard)
    with pytest.raises(ConfigError, match="add_adapter"):
        read_encoder(f"hf:{tmp_path}/adapter", heard)
    for spec in ("student.pt", "hf:", "s3prl:x"):
        with pytest.raises(ConfigError, match="write hf:DIR, fairseq:FILE.pt or colld:FILE.pt"):
            open_native(spec)
    with pytest.raises(ColldError, match="no such file"):
        open_native(f"fairseq:{tmp_path}/absent.pt")


def test_what_the_target_cannot_hold_is_refused_before_writing(tmp_path):
    rotary = encoder_of(EncoderConfig(front_end="fbank_stack", **SIZES))
    for scheme in ("hf", "fairseq"):
        with pytest.raises(ConfigError, match="position='rotary'.*can be written as colld:FILE.pt"):
            write_encoder(scheme, tmp_path / "x", rotary)
    with pytest.raises(ConfigError, match="cmvn='none'.*colld:FILE.pt"):
        write_encoder("hf", tmp_path / "x", encoder_of(BERT, cmvn="none"))
    assert not list(tmp_path.iterdir())


def test_an_incomplete_target_is_noticed(tmp_path):
    from safetensors.torch import load_file, save_file

    write_encoder("hf", tmp_path / "hubert", encoder_of(HUBERT))
    file = tmp_path / "hubert" / "model.safetensors"
    state = load_file(file)
    state["lm_head.weight"] = state.pop("encoder.layers.1.attention.k_proj.bias")
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="missing_keys.*k_proj.bias"):
        open_native(f"hf:{tmp_path}/hubert")
    with pytest.raises(ConfigError, match="unexpected_keys.*lm_head"):
        open_native(f"hf:{tmp_path}/hubert", complete=True)
