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
from colld_fairseq.checkpoints.encoder import EncoderCheckpoint, read_encoder, write_encoder
from colld_fairseq.checkpoints.verify import compare, open_native
from colld_fairseq.cli import main
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.errors import ColldError, ConfigError
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
    expected = InputConfig.waveforms(normalize) if config.front_end == "waveform" else fbank
    return EncoderCheckpoint(dataclasses.replace(config, input=expected), encoder.state_dict())


def features_of(encoder, source):
    """(layers [T, D] by number, output [T, D]) of one input."""
    with torch.no_grad():
        output = encoder.build()(source[None], layers=LAYERS)
    return {layer: value[0] for layer, value in output.features.items()}, output.x[0]


def waveform():
    torch.manual_seed(4)
    return 0.1 * torch.randn(4801) + 0.02


def assert_back(spec, encoder):
    """Reading what was written gives the same weights, configuration and input."""
    again = read_encoder(spec)
    expected = encoder.config.input
    if expected.kind == "waveform" and expected.normalization == "utterance" and not spec.startswith("colld:"):
        expected = InputConfig.waveforms(True, 1e-7 if spec.startswith("hf:") else 1e-5)
    if expected.kind == "waveform":
        assert again.config.input == open_native(spec).input == expected
    assert again.config.input.normalization == open_native(spec).input.normalization == expected.normalization
    assert again.weights.keys() == encoder.weights.keys()
    for name, tensor in encoder.weights.items():
        assert torch.equal(tensor, again.weights[name]), name
    return again


def same_config(first, second):
    """But for the constant that each library adds to a variance."""
    inputs = [dataclasses.replace(one.config.input, variance_floor=0.0) for one in (first, second)]
    return inputs[0] == inputs[1] and dataclasses.replace(first.config, input=second.config.input) == second.config


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
    assert same_config(assert_back(f"hf:{tmp_path}/hubert", encoder), encoder)


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
    assert same_config(assert_back(f"fairseq:{path}", encoder), encoder)
    # and as a teacher
    teacher = load_teacher(f"fairseq:{path}", list(LAYERS))
    source = torch.from_numpy(StudentInput(encoder.config.input)(waveform().numpy()))
    layers, _ = features_of(encoder, source)
    theirs = teacher(waveform()[None], torch.tensor([4801]))
    for layer in LAYERS:
        torch.testing.assert_close(theirs.features[layer][0], layers[layer], atol=1e-4, rtol=0)


def test_fairseq_fine_tunes_it(tmp_path):
    """fairseq's recogniser takes it as --w2v-path, and insists on the normalization of the file."""
    encoder = encoder_of(HUBERT, normalize=True)
    write_encoder("fairseq", tmp_path / "hubert.pt", encoder)
    cfg = OmegaConf.structured(HubertAsrConfig(w2v_path=str(tmp_path / "hubert.pt"), normalize=True, data="."))
    OmegaConf.set_struct(cfg, False)
    recogniser = HubertEncoder(cfg, SimpleNamespace(target_dictionary=None))
    weight = recogniser.w2v_model.encoder.layers[1].fc1.weight
    assert torch.equal(weight, encoder.weights["blocks.1.ffn.linear_in.weight"])
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
    encoder = encoder_of(config, **(dict(normalize=True) if front_end == "waveform" else dict(cmvn="none")))
    path = str(tmp_path / "student.pt")
    write_encoder("colld", path, encoder)
    assert assert_back(f"colld:{path}", encoder).config == encoder.config
    weights = load_student(path).state_dict()
    recogniser = finetuning("--student", path).model.encoder.student
    assert recogniser.config == encoder.config
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
    assert same_config(read_encoder(specs[-1]), encoder)
    source = open_native(specs[0])
    for spec in specs[1:]:
        rows = compare(source, open_native(spec, complete=True), waveform().numpy())
        assert [row.layer for row in rows] == ["input", "0", "1", "2", "3", "output"]
        assert all(row.difference <= 1e-5 < 0.1 < row.largest for row in rows[1:])


def test_half_precision_stays(tmp_path):
    encoder = encoder_of(HUBERT)
    half = dataclasses.replace(encoder, weights={name: tensor.half() for name, tensor in encoder.weights.items()})
    for scheme, name in (("hf", "half"), ("fairseq", "half.pt"), ("colld", "ours.pt")):
        write_encoder(scheme, tmp_path / name, half)
        again = read_encoder(f"{scheme}:{tmp_path}/{name}")
        assert all(torch.equal(tensor, again.weights[key]) for key, tensor in half.weights.items())
        assert again.weights["pos_conv.bias"].dtype == torch.float16
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"


def test_wav2vec2_becomes_hubert(tmp_path):
    """The two have the same encoder; the quantizer of pre-training stays behind."""
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
        assert source.input == InputConfig.waveforms(normalize=True)
        folder = tmp_path / name.removesuffix(".pt")
        write_encoder("hf", folder, read_encoder(spec))
        hubert = transformers.HubertModel.from_pretrained(folder).eval()
        with torch.no_grad():
            expected = model.extract_features(waveform()[None], padding_mask=None)["x"]
            torch.testing.assert_close(hubert(waveform()[None]).last_hidden_state, expected, atol=1e-5, rtol=0)
        rows = compare(source, open_native(f"hf:{folder}", complete=True), waveform().numpy())
        assert all(row.within(1e-5) for row in rows[1:])


def test_models_with_parts_that_would_be_lost_are_refused(tmp_path, capsys):
    """They may start a student, but are not the same model without the part."""
    tiny = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=40)
    waveforms = dict(conv_dim=[8] * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    bert = transformers.Wav2Vec2BertConfig(**tiny, add_adapter=True, conv_depthwise_kernel_size=5)
    models = {
        "wavlm": transformers.WavLMModel(transformers.WavLMConfig(**tiny, **waveforms)),
        "adapter": transformers.Wav2Vec2BertModel(bert),
    }
    for name, part in (("wavlm", "gated relative positions"), ("adapter", "add_adapter")):
        models[name].save_pretrained(tmp_path / name)
        assert part in read_encoder(f"hf:{tmp_path}/{name}").lacks
        assert main(["convert", "--from", f"hf:{tmp_path}/{name}", "--to", f"colld:{tmp_path}/x.pt"]) == 2
        error = capsys.readouterr().err
        assert part in error and "--init-from" in error and not (tmp_path / "x.pt").exists()
    for spec in ("student.pt", "hf:", "s3prl:x"):
        with pytest.raises(ConfigError, match="write hf:DIR, fairseq:FILE.pt, fairseq2:FILE.pt or colld:FILE.pt"):
            open_native(spec)
    with pytest.raises(ColldError, match="no such file"):
        open_native(f"fairseq:{tmp_path}/absent.pt")


def test_what_the_target_cannot_hold_is_refused_before_writing(tmp_path):
    rotary = encoder_of(EncoderConfig(front_end="fbank_stack", **SIZES))
    for scheme in ("hf", "fairseq"):
        with pytest.raises(ConfigError, match="position='rotary'.*can be written as .*colld:FILE.pt"):
            write_encoder(scheme, tmp_path / "x", rotary)
    with pytest.raises(ConfigError, match="input=kaldi filterbanks as they are .*colld:FILE.pt"):
        write_encoder("hf", tmp_path / "x", encoder_of(BERT, cmvn="none"))
    icefall = encoder_of(BERT)
    icefall.config.input = InputConfig(fbank="icefall")
    with pytest.raises(ConfigError, match="input=icefall filterbanks .*always kaldi filterbanks .*colld:FILE.pt"):
        write_encoder("hf", tmp_path / "x", icefall)
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
