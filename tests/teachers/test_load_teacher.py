"""What load_teacher refuses, and what a loaded teacher never does."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from second_device import DEVICE, second_device

from colld_fairseq.errors import TeacherError
from colld_fairseq.teachers import load_teacher


@pytest.fixture
def copied(tiny_teacher, tmp_path):
    """A directory of its own with a tiny HuBERT, its weights, and a function that writes changed ones."""
    source, _ = tiny_teacher("hubert-group")
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    state = load_file(source / "model.safetensors")

    def write(changed):
        save_file(changed, tmp_path / "model.safetensors")

    write(state)
    return tmp_path, state, write


@pytest.mark.parametrize(
    "layers, kind, message",
    [
        ([4], "layer", "layer 4 does not exist; kind 'layer' offers layers 0 to 3"),
        ([1, -1], "layer", "layer -1 does not exist"),
        ([0, 1], "ffn", "layer 0 does not exist; kind 'ffn' offers layers 1 to 3"),
        ([], "layer", "no layer was requested"),
        ([1], "logits", "kind is 'logits', choose one of layer, ffn"),
    ],
)
def test_wrong_layers_and_kinds(tiny_teacher, layers, kind, message):
    directory, _ = tiny_teacher("hubert-group")
    with pytest.raises(TeacherError, match=message):
        load_teacher(f"hf:{directory}", layers, kind=kind)


def test_missing_keys_are_named(copied):
    directory, state, write = copied
    missing = [key for key in state if "layers.1.attention.k_proj" in key or "projection.weight" in key]
    write({key: value for key, value in state.items() if key not in missing})
    with pytest.raises(TeacherError) as error:
        load_teacher(f"hf:{directory}", [3])
    assert "3 missing" in str(error.value)
    assert all(key in str(error.value) for key in missing)
    assert str(directory) in str(error.value)


def test_keys_of_dropped_blocks_and_surplus_keys_do_not_matter(copied):
    directory, state, write = copied
    kept = {key: value for key, value in state.items() if "encoder.layers.2." not in key}
    write({**kept, "lm_head.weight": torch.zeros(2, 2)})
    assert len(load_teacher(f"hf:{directory}", [1, 2]).module.blocks) == 2


def test_misshaped_keys_are_named(copied):
    directory, state, write = copied
    key = "encoder.layers.0.feed_forward.output_dense.bias"
    write({**state, key: torch.zeros(3)})
    with pytest.raises(TeacherError, match=rf"1 of another shape \({key} is \[3\], expected \[24\]\)"):
        load_teacher(f"hf:{directory}", [1])


def test_prefix_of_a_model_with_a_head_and_old_weight_norm(copied, utterances):
    directory, state, write = copied
    expected = load_teacher(f"hf:{directory}", [3])(*utterances).features[3]
    old = {"original0": "weight_g", "original1": "weight_v"}
    renamed = {}
    for key, value in state.items():
        stem, _, last = key.rpartition(".")
        name = f"{stem.removesuffix('.parametrizations.weight')}.{old[last]}" if last in old else key
        renamed[f"hubert.{name}"] = value
    assert any(key.endswith("conv.weight_g") for key in renamed)
    write(renamed)
    assert torch.equal(load_teacher(f"hf:{directory}", [3])(*utterances).features[3], expected)


@pytest.mark.parametrize("sharded", [False, True])
def test_torch_weights(copied, utterances, sharded):
    directory, state, _ = copied
    expected = load_teacher(f"hf:{directory}", [3])(*utterances).features[3]
    (directory / "model.safetensors").unlink()
    if sharded:
        keys = sorted(state)
        shards = {"pytorch_model-1.bin": keys[::2], "pytorch_model-2.bin": keys[1::2]}
        for name, names in shards.items():
            torch.save({key: state[key] for key in names}, directory / name)
        index = {"weight_map": {key: name for name, names in shards.items() for key in names}}
        (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        torch.save(state, directory / "pytorch_model.bin")
    assert torch.equal(load_teacher(f"hf:{directory}", [3])(*utterances).features[3], expected)
    if sharded:
        (directory / "pytorch_model-2.bin").unlink()
        with pytest.raises(TeacherError, match="shards are missing: .*pytorch_model-2.bin"):
            load_teacher(f"hf:{directory}", [3])


def test_pickled_code_is_refused(copied):
    directory, _, _ = copied
    (directory / "model.safetensors").unlink()
    torch.save({"x": print}, directory / "pytorch_model.bin")
    with pytest.raises(TeacherError, match="pytorch_model.bin: holds an object of print"):
        load_teacher(f"hf:{directory}", [1])


def test_truncated_weights(copied):
    directory, _, _ = copied
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(TeacherError, match="model.safetensors: cannot be read as weights"):
        load_teacher(f"hf:{directory}", [1])


def test_directories_that_are_none(tmp_path):
    with pytest.raises(TeacherError, match="hf download no-one/has-this --local-dir"):
        load_teacher("hf:no-one/has-this", [1])
    with pytest.raises(TeacherError, match="no such directory"):
        load_teacher(f"hf:{tmp_path}/absent", [1])
    with pytest.raises(TeacherError, match="config.json: not readable"):
        load_teacher(f"hf:{tmp_path}", [1])


@pytest.mark.parametrize("spec", ["", "hf:", "hubert", "torch:x"])
def test_unknown_scheme(spec):
    with pytest.raises(TeacherError, match="write hf:DIR, fairseq:FILE.pt, fairseq2:FILE.pt, colld:FILE.pt, onnx:"):
        load_teacher(spec, [1])


def test_unknown_dtype(tiny_teacher):
    with pytest.raises(TeacherError, match="dtype is 'int8', choose one of float32"):
        load_teacher(f"hf:{tiny_teacher('hubert-group')[0]}", [1], dtype="int8")


def test_frozen(tiny_teacher, utterances):
    """No gradient, no train mode, not a module: nothing a parent module does reaches it."""
    teacher = load_teacher(f"hf:{tiny_teacher('hubert-group')[0]}", [1, 2])
    student = torch.nn.Module()
    student.teacher, student.layer = teacher, torch.nn.Linear(2, 2)
    student.train().half()
    assert not isinstance(teacher, torch.nn.Module)
    assert list(student.state_dict()) == ["layer.weight", "layer.bias"]
    assert not any(module.training for module in teacher.module.modules())
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())
    assert {parameter.dtype for parameter in teacher.module.parameters()} == {torch.float32}
    teacher.module.train()
    first, second = teacher(*utterances), teacher(*utterances)
    assert not teacher.module.training
    assert torch.equal(first.features[2], second.features[2])
    assert not first.features[2].requires_grad
    weight = torch.ones((), requires_grad=True)
    (first.features[2] * weight).sum().backward()  # inference tensors would raise here
    assert weight.grad is not None


def test_autocast_does_not_change_a_float32_teacher(tiny_teacher, utterances):
    teacher = load_teacher(f"hf:{tiny_teacher('hubert-group')[0]}", [3])
    expected = teacher(*utterances).features[3]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(teacher(*utterances).features[3], expected)


def test_content_hash_follows_the_weights(copied):
    directory, state, write = copied
    first = load_teacher(f"hf:{directory}", [1]).content_hash
    assert first == load_teacher(f"hf:{directory}", [2]).content_hash
    key = next(iter(state))
    write({**state, key: state[key] + 1})
    assert load_teacher(f"hf:{directory}", [1]).content_hash != first


def test_utterances_too_short_are_named(tiny_teacher):
    teacher = load_teacher(f"hf:{tiny_teacher('hubert-group')[0]}", [1])
    with pytest.raises(TeacherError, match="utterance 1 of the batch has 9 samples"):
        teacher(torch.zeros(2, 800), torch.tensor([800, 9]))
    with pytest.raises(TeacherError, match="expected waveforms"):
        teacher(torch.zeros(800), torch.tensor([800]))


@pytest.mark.parametrize("name", ["hubert-group", "hubert-group-batchnorm", "wavlm-group", "data2vec", "w2v-bert"])
def test_it_follows_the_waveforms_to_their_device(name, tiny_teacher, utterances):
    teacher = load_teacher(f"hf:{tiny_teacher(name)[0]}", [0, 2])
    expected = teacher(*utterances).features
    with second_device():
        result = teacher(*(part.to(DEVICE) for part in utterances))
        for layer, features in result.features.items():
            torch.testing.assert_close(features.to("cpu"), expected[layer], atol=2e-4, rtol=1e-3)
    assert teacher.device == DEVICE
