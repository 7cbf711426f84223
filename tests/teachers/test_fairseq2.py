"""fairseq2's encoders on our modules: transformers' hidden states, whatever heads, shards and heads of training."""

import json
import logging

import pytest
import torch
import torch.nn.functional as F
import transformers
import yaml
from fairseq2_files import POSITIONS, heads_of_pretraining, omniasr, save, save_shards, state_of, wav2vec

from colld_fairseq.checkpoints.encoder import EncoderCheckpoint, read_encoder, write_encoder
from colld_fairseq.checkpoints.verify import compare, open_native
from colld_fairseq.cli import main as colld
from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.models.colld_student import start_student
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.teachers import describe_teacher, load_teacher
from colld_fairseq.teachers.source import TeacherSource

LAYERS = [0, 1, 2, 3]
LARGE = dict(do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True)
BASE = dict(do_stable_layer_norm=False, feat_extract_norm="group", conv_bias=False)


def library_states(model, waveform):
    """transformers' {layer: [T, D]} of samples [N] as they are, and what leaves the encoder."""
    blocks = model.layers if hasattr(model, "layers") else model.encoder.layers
    states = {}

    def keep(layer, output):
        states[layer] = (output[0] if isinstance(output, tuple) else output)[0]

    handles = [blocks[0].register_forward_pre_hook(lambda module, given: keep(0, given))]
    for layer, block in enumerate(blocks, 1):
        handles.append(block.register_forward_hook(lambda module, given, output, layer=layer: keep(layer, output)))
    source = waveform[None, None] if hasattr(model, "layers") else waveform[None]
    with torch.no_grad():
        states[len(blocks) + 1] = model(source).last_hidden_state[0]
    for handle in handles:
        handle.remove()
    return states


def assert_equal(features, expected, lengths):
    for layer, states in expected.items():
        theirs = states[:lengths]
        tolerance = 1e-5 * max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(features[layer][:lengths], theirs, atol=tolerance, rtol=0)
        assert theirs.std() > 0.05


def assert_teaches(spec, model, utterances, layers, normalize=True):
    """Every layer of utterances in one padded batch equals the library's, of each alone."""
    output = load_teacher(spec, layers)(*utterances)
    for row, size in enumerate(utterances[1].tolist()):
        waveform = utterances[0][row, :size]
        expected = library_states(model, F.layer_norm(waveform, [size]) if normalize else waveform)
        assert int(output.lengths[row]) == len(expected[0])
        assert_equal(
            {k: value[row] for k, value in output.features.items()}, {k: expected[k] for k in layers}, len(expected[0])
        )


@pytest.mark.parametrize("head_size, heads", [(64, 2), (80, 2), (128, 2), (12, 3)])
def test_omniasr_of_every_head_size(head_size, heads, utterances, tmp_path):
    """300M has heads of 64, 1B of 80, 3B and 7B of 128; layer 4 is what leaves the encoder."""
    model = omniasr(head_size, heads)
    width = model.config.hidden_size
    spec = save(tmp_path / "ssl.pt", {**state_of(model), **heads_of_pretraining(width)}, attention_heads=heads)
    assert_teaches(spec, model, utterances, [*LAYERS, 4])
    info = describe_teacher(spec)
    assert (info.num_layers, info.width, info.frame_rate_hz) == (3, width, 50)


@pytest.mark.parametrize(
    "settings, normalize", [(BASE, False), (BASE, True), (LARGE, True)], ids=["base", "base, normalized", "large_lv60k"]
)
def test_shapes_of_fairseq2_itself(settings, normalize, utterances, tmp_path):
    model = wav2vec(**settings)
    spec = save(tmp_path / "w2v.pt", state_of(model), attention_heads=2, normalize=normalize)
    assert_teaches(spec, model, utterances, LAYERS, normalize)


def test_encoder_of_a_ctc_checkpoint(utterances, tmp_path):
    """Names may have a prefix, positions the names of newer torch, and there may be no mask embedding."""
    model = omniasr(80)
    state = {**state_of(model), "final_proj.weight": torch.zeros(9, 160), "final_proj.bias": torch.zeros(9)}
    del state["masker.temporal_mask_embed"]
    for index, old in enumerate(("weight_g", "weight_v")):
        state[f"{POSITIONS}.parametrizations.weight.original{index}"] = state.pop(f"{POSITIONS}.{old}")
    spec = save(tmp_path / "ctc.pt", {f"module.{name}": value for name, value in state.items()}, attention_heads=2)
    assert_teaches(spec, model, utterances, LAYERS)
    assert not read_encoder(spec).weights["mask_emb"].any()


def test_an_encoder_as_wide_as_its_extractor_has_no_projection(utterances, tmp_path):
    model = wav2vec(**LARGE, conv_dim=[24] * 7)
    with torch.no_grad():
        model.feature_projection.projection.weight.copy_(torch.eye(24))
        model.feature_projection.projection.bias.zero_()
    state = {name: value for name, value in state_of(model).items() if "model_dim_proj" not in name}
    spec = save(tmp_path / "w2v.pt", state, attention_heads=2)
    assert_teaches(spec, model, utterances, LAYERS)
    assert colld(["convert", "--from", spec, "--to", f"fairseq2:{tmp_path}/again.pt"]) == 0
    assert encoder_in(tmp_path / "again.pt").keys() == state.keys()


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("named", ["", "model", "model/pp_00/tp_00", "model/pp_00/tp_00/sdp_00.pt"])
def test_folders_of_shards(count, named, utterances, tmp_path):
    model = omniasr(12)
    inner = save_shards(tmp_path / "step_5", state_of(model), count)
    path = tmp_path / "step_5" / named
    beside = inner / "sdp_00.yaml" if named.endswith(".pt") else path.with_name(f"{path.name}.yaml")
    beside.write_text(yaml.safe_dump({"attention_heads": 2}))
    assert_teaches(f"fairseq2:{path}", model, utterances, [2])


def test_only_what_is_needed_is_read_and_the_log_says_how_much(tmp_path, caplog):
    spec = save(tmp_path / "ssl.pt", state_of(omniasr(12)), attention_heads=2)
    assert not any(name.startswith("blocks.1.") for name in read_encoder(spec, 1).weights)
    with caplog.at_level(logging.INFO, logger="colld_fairseq"):
        teacher = load_teacher(spec, [1], dtype="bfloat16")
    held = sum(weight.numel() for weight in teacher.module.parameters()) * 2
    assert len(teacher.module.blocks) == 1 and all(w.dtype == torch.bfloat16 for w in teacher.module.parameters())
    assert f"1 of 3 blocks are read, {held / 1e9:.2f} GB in torch.bfloat16" in caplog.text


def test_half_precision_files(utterances, tmp_path):
    model = omniasr(12).half().float()
    halves = {name: value.half() for name, value in state_of(model).items()}
    spec = save(tmp_path / "half.pt", halves, attention_heads=2)
    features = load_teacher(spec, [3])(*utterances).features[3]
    assert features.dtype == torch.float32
    expected = library_states(model, F.layer_norm(utterances[0][0], [4801]))[3]
    torch.testing.assert_close(features[0], expected, atol=3e-3, rtol=0)


def test_a_cache_belongs_to_the_description_as_well(tmp_path):
    spec = save(tmp_path / "w2v.pt", state_of(wav2vec(**BASE)), attention_heads=2, normalize=False)
    first = load_teacher(spec, [1]).content_hash
    (tmp_path / "w2v.yaml").write_text("attention_heads: 2\nnormalize: true\n")
    assert load_teacher(spec, [1]).content_hash != first


@torch.no_grad()
def test_starts_a_student(tmp_path):
    model = omniasr(80)
    spec = save(tmp_path / "ssl.pt", state_of(model), attention_heads=2)
    student = StudentEncoder(read_encoder(spec).config).eval()
    start_student(student, spec, "1,2,3")
    waveform = torch.randn(4000)
    expected = library_states(model, waveform)[4]
    torch.testing.assert_close(student(waveform[None]).x[0], expected, atol=1e-5, rtol=1e-5)


def test_among_several_and_in_a_cache(tmp_path, corpus):
    spec = save(tmp_path / "ssl.pt", state_of(omniasr(12)), attention_heads=2)
    assert TeacherSource("omni", spec).info.width == 24
    words = ["features", "--manifest", str(corpus / "test.tsv"), "--teacher", spec, "--layers", "1,3"]
    assert colld([*words, "--out", str(tmp_path / "features")]) == 0


def test_is_profiled(tmp_path, capsys):
    """Without its weights being read a second time for their precision."""
    state = {name: value.half() for name, value in state_of(omniasr(12)).items()}
    spec = save(tmp_path / "half.pt", state, attention_heads=2)
    words = ["profile", "--teacher", spec, "--seconds", "0.5", "--runs", "1", "--batch-sizes", "1", "--device", "cpu"]
    assert colld([*words, "--json", str(tmp_path / "x.json")]) == 0, capsys.readouterr().err
    (model,) = json.loads((tmp_path / "x.json").read_text())["models"]
    assert model["mb_stored"] == model["mb_float16"] > 0


def encoder_in(path):
    """Weights of a file but the heads of pre-training: those are there, or none."""
    state = torch.load(path, weights_only=True)["model"]
    heads = {name for name in state if name.startswith(("quantizer.", "final_"))}
    assert not heads or heads == heads_of_pretraining(8).keys()
    return {name: value for name, value in state.items() if name not in heads}


def test_converts_there_and_back_bit_by_bit(tmp_path, capsys):
    """fairseq2 -> transformers -> ours -> fairseq2: each run beside the one before, and the same weights in the end."""
    model = omniasr(80)
    specs = [save(tmp_path / "ssl.pt", state_of(model), attention_heads=2)]
    specs += [f"hf:{tmp_path}/hubert", f"colld:{tmp_path}/student.pt", f"fairseq2:{tmp_path}/again.pt"]
    for source, target in zip(specs, specs[1:]):
        assert colld(["convert", "--from", source, "--to", target]) == 0, capsys.readouterr().err
        rows = compare(open_native(source), open_native(target), torch.randn(5000).numpy())
        assert [row.layer for row in rows] == ["input", "0", "1", "2", "3", "output"]
        assert all(row.within(1e-5) for row in rows[1:])
    first, last = (encoder_in(tmp_path / name) for name in ("ssl.pt", "again.pt"))
    assert first.keys() == last.keys() and all(torch.equal(first[name], last[name]) for name in first)
    assert read_encoder(specs[-1]).config.attention_heads == 2


def test_omniasr_of_transformers_becomes_fairseq2s(tmp_path, capsys):
    model = omniasr(128)
    model.save_pretrained(tmp_path / "omni")
    transformers.OmniASRFeatureExtractor().save_pretrained(tmp_path / "omni")
    target = f"fairseq2:{tmp_path}/omni.pt"
    assert colld(["convert", "--from", f"hf:{tmp_path}/omni", "--to", target]) == 0, capsys.readouterr().err
    written, expected = encoder_in(tmp_path / "omni.pt"), state_of(model)
    assert written.keys() == expected.keys()
    for name, value in written.items():
        if "masker" not in name and "pos_encoder" not in name:
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    "config, message",
    [
        (dict(block="conformer", layers=2), "no place for .*block='conformer'"),
        (dict(activation="relu"), "activation='relu'"),
        (dict(conv_layers=[[8, 10, 5], [8, 4, 4]]), "conv_layers="),
        (dict(extractor_norm="layer"), "input=waveforms as they are .always waveforms, normalized there"),
        (dict(layers=12, embed_dim=768, ffn_dim=3072, attention_heads=8), "attention_heads is 8, but fairseq2's base"),
    ],
)
def test_what_the_format_cannot_hold_is_named(config, message, tmp_path):
    shape = dict(embed_dim=24, ffn_dim=40, attention_heads=2, layers=1, front_end="waveform", block="transformer")
    shape.update(position="conv", conv_pos=6, conv_pos_groups=2, input=InputConfig.waveforms(False))
    with pytest.raises(ConfigError, match=message):
        write_encoder("fairseq2", tmp_path / "x.pt", EncoderCheckpoint(EncoderConfig(**{**shape, **config}), {}))
    assert not list(tmp_path.iterdir())


def test_no_such_file(tmp_path):
    for name in ("absent.pt", ""):
        with pytest.raises(TeacherError, match="no such file|holds no pp_00/tp_00/sdp_00.pt"):
            load_teacher(f"fairseq2:{tmp_path}/{name}", [1])
