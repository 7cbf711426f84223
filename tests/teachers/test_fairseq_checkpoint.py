"""Checkpoints in fairseq's layout give what fairseq's own models compute."""

import importlib.util

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fairseq_models import TASK, TINY, build, save, shake
from omegaconf import OmegaConf

from colld_fairseq.errors import TeacherError
from colld_fairseq.teachers import load_teacher

VARIANTS = {
    "group, post-norm": dict(TINY),
    "layer, pre-norm": dict(TINY, extractor_mode="layer_norm", layer_norm_first=True, conv_bias=True),
    "layer, post-norm": dict(TINY, extractor_mode="layer_norm"),
    "width of the extractor": dict(TINY, conv_feature_layers="[(24, 10, 5)] + [(24, 4, 4)]"),
    "stacked positions": dict(TINY, extractor_mode="layer_norm", pos_conv_depth=3, conv_pos=15),
}


def fairseq_states(model, waveform):
    """Layer number -> [T, D] of one normalized utterance [N], by hooks on fairseq's blocks."""
    states, handles = {}, []
    layers = model.encoder.layers
    handles.append(layers[0].register_forward_pre_hook(lambda m, a: states.__setitem__(0, a[0].clone())))
    for block, layer in enumerate(layers, start=1):
        handles.append(layer.register_forward_hook(lambda m, a, o, n=block: states.__setitem__(n, o[0])))
    waveform = F.layer_norm(waveform, waveform.shape)[None]
    with torch.no_grad():
        model(waveform, mask=False, features_only=True)
    for handle in handles:
        handle.remove()
    return {layer: value[:, 0] for layer, value in states.items()}


def assert_equal(teacher, model, utterances):
    waveforms, lengths = utterances
    output = teacher(waveforms, lengths)
    for row, (length, frames) in enumerate(zip(lengths.tolist(), output.lengths.tolist())):
        expected = fairseq_states(model, waveforms[row, :length])
        for layer in teacher.layers:
            assert expected[layer].std() > 0.1
            # fairseq pads an odd number of frames by one
            assert expected[layer].size(0) - frames in (0, 1)
            ours = output.features[layer][row, :frames]
            torch.testing.assert_close(ours, expected[layer][:frames], atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["wav2vec2", "hubert"])
def test_equals_fairseq(name, variant, tmp_path, utterances):
    settings = VARIANTS[variant]
    model = build(name, settings)
    path = save(tmp_path / "model.pt", model, name, settings)
    assert_equal(load_teacher(f"fairseq:{path}", [0, 1, 2, 3]), model, utterances)


def test_batch_norm_before_the_position_convolution(tmp_path, utterances):
    settings = dict(TINY, conv_pos_batch_norm=True)
    model = build("hubert", settings)
    path = save(tmp_path / "model.pt", model, "hubert", settings)
    assert_equal(load_teacher(f"fairseq:{path}", [0, 3]), model, utterances)


def test_checkpoints_with_args(tmp_path, utterances):
    model = build("wav2vec2", TINY)
    path = save(tmp_path / "model.pt", model, "wav2vec2", TINY, old_layout=True)
    assert_equal(load_teacher(f"fairseq:{path}", [2]), model, utterances)


def test_data2vec_equals_fairseq(tmp_path, utterances):
    """data2vec's model lives in fairseq's examples, which some wheels leave out."""
    if importlib.util.find_spec("fairseq.examples.data2vec") is None:
        pytest.skip("this fairseq has no examples")
    module = importlib.import_module("fairseq.examples.data2vec.models.data2vec_audio")
    settings = dict(TINY, extractor_mode="layer_norm", pos_conv_depth=3, conv_pos=15)
    settings.pop("latent_vars"), settings.pop("final_dim")
    torch.manual_seed(5)
    model = shake(module.Data2VecAudioModel(module.Data2VecAudioConfig(**settings, average_top_k_layers=2)))
    path = save(tmp_path / "model.pt", model, "data2vec_audio", settings)
    assert_equal(load_teacher(f"fairseq:{path}", [0, 1, 2, 3]), model, utterances)


def test_normalization_follows_the_task(tmp_path, utterances):
    model = build("hubert", TINY)
    state = {"model": model.state_dict(), "cfg": {"model": {"_name": "hubert", **TINY}, "task": dict(TASK)}}
    outputs = []
    for normalize in (True, False):
        state["cfg"]["task"]["normalize"] = normalize
        torch.save(state, tmp_path / f"{normalize}.pt")
        outputs.append(load_teacher(f"fairseq:{tmp_path}/{normalize}.pt", [3])(*utterances).features[3])
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["numbers", "omegaconf", "omegaconf parts"])
def test_fairseq_teachers_with_harmless_classes(kind, tmp_path, utterances):
    model = {"_name": "wav2vec2", **TINY}
    state = build("wav2vec2", TINY).state_dict()
    plain_cfg = {"model": model, "task": dict(TASK)}
    torch.save({"cfg": plain_cfg, "model": state}, tmp_path / "plain.pt")
    numbers = {name: np.int64(value) if type(value) is int else value for name, value in model.items()}
    cfg = {
        "numbers": {"model": {**numbers, "dropout": np.float64(0.1)}, "task": {**TASK, "normalize": np.bool_(True)}},
        "omegaconf": OmegaConf.create(
            {**plain_cfg, "model": {**model, "conv_pos": "${more.conv_pos}"}, "more": {"conv_pos": 6}}
        ),
        "omegaconf parts": {name: OmegaConf.create(part) for name, part in plain_cfg.items()},
    }[kind]
    extra = {"best": np.float64(3.5)}
    torch.save({"args": None, "cfg": cfg, "model": state, "extra_state": extra}, tmp_path / "other.pt")
    expected, result = (
        load_teacher(f"fairseq:{tmp_path}/{name}.pt", [0, 2])(*utterances).features for name in ("plain", "other")
    )
    assert all(torch.equal(result[layer], expected[layer]) for layer in (0, 2))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(_name="wav2vec_ctc"), "a model 'wav2vec_ctc'; wav2vec2, hubert, data2vec_audio can be read"),
        (dict(layer_type="conformer"), "layer_type='conformer'"),
        (dict(activation_fn="swish"), "activation_fn='swish'"),
        (dict(pos_conv_depth=2), "pos_conv_depth > 1"),
        (dict(conv_feature_layers="[(8, 10, 5)] + __import__('os')"), "Call is not allowed"),
        (dict(encoder_embed_dim=16), "of another shape"),
    ],
)
def test_unsupported_models(change, message, tmp_path):
    settings = {**TINY, "_name": "hubert", **change}
    state = build("hubert", TINY).state_dict()
    torch.save({"model": state, "cfg": {"model": settings}}, tmp_path / "model.pt")
    with pytest.raises(TeacherError, match=message):
        load_teacher(f"fairseq:{tmp_path}/model.pt", [1])


def test_files_that_are_none(tmp_path):
    with pytest.raises(TeacherError, match="no such file"):
        load_teacher(f"fairseq:{tmp_path}/absent.pt", [1])
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(TeacherError, match="text.pt: cannot be read as weights"):
        load_teacher(f"fairseq:{tmp_path}/text.pt", [1])
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(TeacherError, match="holds no 'model'"):
        load_teacher(f"fairseq:{tmp_path}/other.pt", [1])
    torch.save({"model": {}}, tmp_path / "bare.pt")
    with pytest.raises(TeacherError, match="holds no model configuration"):
        load_teacher(f"fairseq:{tmp_path}/bare.pt", [1])
