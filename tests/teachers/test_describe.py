"""What is known of a teacher before its weights are read is what the loaded teacher has."""

import json

import pytest
import torch
from fairseq_models import TASK, TINY, build, save

from colld_fairseq.errors import TeacherError
from colld_fairseq.teachers import describe_teacher, load_teacher


def assert_described(spec):
    info, teacher = describe_teacher(spec), load_teacher(spec, layers=[1])
    assert info.num_layers == teacher.num_layers == 3
    assert info.width == teacher.width == 24
    assert info.frame_rate_hz == teacher.frame_rate_hz


@pytest.mark.parametrize(
    "name",
    [
        "wav2vec2-group",
        "hubert-layer",
        "hubert-group-batchnorm",
        "wavlm-group",
        "data2vec",
        "w2v-bert",
        "w2v-bert-rotary",
    ],
)
def test_families_of_transformers(name, tiny_teacher):
    assert_described(f"hf:{tiny_teacher(name)[0]}")


@pytest.mark.parametrize("changes", [{}, dict(extractor_mode="layer_norm", pos_conv_depth=3, conv_pos=15)])
def test_fairseq(changes, tmp_path):
    settings = dict(TINY, **changes)
    assert_described(f"fairseq:{save(tmp_path / 'model.pt', build('hubert', settings), 'hubert', settings)}")


def test_no_weight_is_read(tmp_path):
    """Fields that a configuration leaves out are the library's."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "wav2vec2-bert", "num_hidden_layers": 5}))
    info = describe_teacher(f"hf:{tmp_path}")
    assert (info.num_layers, info.width, info.frame_rate_hz) == (5, 1024, 50.0)
    stacked = {"model_type": "wav2vec2-bert", "feature_projection_input_dim": 320}
    (tmp_path / "config.json").write_text(json.dumps(stacked))
    assert describe_teacher(f"hf:{tmp_path}").frame_rate_hz == 25.0
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
    with pytest.raises(TeacherError, match="model_type 'bert'; supported: .*hubert.*whisper"):
        describe_teacher(f"hf:{tmp_path}")


def test_another_sampling_rate_is_refused(tmp_path):
    checkpoint = {"cfg": {"model": {"_name": "hubert", **TINY}, "task": {**TASK, "sample_rate": 8000}}, "model": {}}
    torch.save(checkpoint, tmp_path / "model.pt")
    for ask in (describe_teacher, lambda spec: load_teacher(spec, [1])):
        with pytest.raises(TeacherError, match="model.pt: sample_rate is 8000, and audio is 16000 Hz here"):
            ask(f"fairseq:{tmp_path}/model.pt")
