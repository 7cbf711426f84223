"""The benchmark of large teachers writes models of transformers' names and shapes, and measures what it says."""

import math

import large_teachers
import torch
import transformers


def test_names_and_shapes_are_those_of_transformers():
    shape = large_teachers.LAYERS, large_teachers.WIDTH, large_teachers.INNER
    audio = transformers.OmniASRAudioConfig(**large_teachers.settings_of(*shape)["audio_config"])
    with torch.device("meta"):
        model = transformers.OmniASRForCTC(transformers.OmniASRCTCConfig(audio_config=audio, vocab_size=9))
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if "ctc_head" not in name}
    assert large_teachers.shapes_of(*shape) == expected


def test_a_small_one_is_measured(tmp_path):
    large_teachers.write_directory(tmp_path, 2, 32, 64)
    figures = large_teachers.compute_features(str(tmp_path), 1, "bfloat16")
    block = 4 * 32 * 32 + 2 * 32 * 64 + 4 * 32 + 64 + 32 + 4 * 32
    outside = sum(
        map(math.prod, (s for name, s in large_teachers.shapes_of(2, 32, 64).items() if ".layers." not in name))
    )
    assert figures["weights"] == 2 * (
        block + outside + 128 + 32
    )  # with the gain of 128 positions, and a mask embedding
    assert 0 < figures["load_s"] < figures["first_feature_s"]
    assert large_teachers.start(str(tmp_path), [2])["load_s"] > 0
