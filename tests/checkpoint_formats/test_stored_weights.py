"""Of a model in files only what is needed is read, whatever its files are; what is damaged is refused by name."""

import json
import logging
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from colld_fairseq.checkpoints.encoder import read_encoder
from colld_fairseq.checkpoints.stored_weights import StoredWeights, shapes_of
from colld_fairseq.checkpoints.tensor_files import SplitFiles
from colld_fairseq.errors import CheckpointError, TeacherError
from colld_fairseq.models.colld_student import start_student
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.teachers import load_teacher

BLOCKS = 4
SHAPE = dict(hidden_size=24, num_hidden_layers=BLOCKS, num_attention_heads=2, intermediate_size=40)
WAVEFORM = dict(conv_dim=[8] * 3, conv_kernel=[10, 3, 2], conv_stride=[5, 4, 2], num_conv_pos_embeddings=6)
WAVEFORM.update(num_conv_pos_embedding_groups=2)
FILES = ("one file", "shards", "torch", "shards of torch", "torch before 1.6")


def models():
    omniasr = transformers.OmniASRAudioConfig(**SHAPE, **WAVEFORM)
    whisper = dict(d_model=24, encoder_layers=BLOCKS, encoder_attention_heads=2, encoder_ffn_dim=40, num_mel_bins=80)
    whisper.update(decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, vocab_size=20, pad_token_id=0)
    whisper.update(bos_token_id=1, eos_token_id=2, decoder_start_token_id=3)
    return {
        "omniasr": lambda: transformers.OmniASRForCTC(transformers.OmniASRCTCConfig(audio_config=omniasr)),
        "wav2vec2": lambda: transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**SHAPE, **WAVEFORM)),
        "wavlm": lambda: transformers.WavLMModel(transformers.WavLMConfig(**SHAPE, **WAVEFORM)),
        "w2v-bert": lambda: transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig(**SHAPE)),
        "whisper": lambda: transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**whisper)),
    }


def save(name, directory, files="one file", dtype=torch.float32):
    """A random model of transformers in `files`; returns the spec."""
    torch.manual_seed(1)
    model = models()[name]()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    model.to(dtype).save_pretrained(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    split(directory, files)
    return f"hf:{directory}"


def split(directory, files):
    """Write model.safetensors anew, as `files` says."""
    path = directory / "model.safetensors"
    if files == "one file":
        return
    state = load_file(path)
    path.unlink()
    if "shards" not in files:
        torch.save(state, directory / "pytorch_model.bin", _use_new_zipfile_serialization="1.6" not in files)
        return
    name, ending = ("pytorch_model.bin", "bin") if "torch" in files else ("model.safetensors", "safetensors")
    names = sorted(state)
    parts = {f"part-{index}.{ending}": names[index::3] for index in range(3)}
    for part, keys in parts.items():
        (torch.save if ending == "bin" else save_file)({key: state[key] for key in keys}, directory / part)
    weight_map = {key: part for part, keys in parts.items() for key in keys}
    (directory / f"{name}.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture
def names_read(monkeypatch):
    """Names of all tensors that are read, as often as they are."""
    names, fill = [], SplitFiles.fill

    def recorded(self, targets):
        names.extend(targets)
        fill(self, targets)

    monkeypatch.setattr(SplitFiles, "fill", recorded)
    return names


def blocks_of(names):
    """Indexes of the blocks of Transformer or Conformer that these weights are of."""
    return {block for block in range(BLOCKS) if any(f"layers.{block}.final_layer_norm." in name for name in names)}


@pytest.mark.parametrize("name", models())
def test_only_the_blocks_needed_are_read_and_each_once(name, tmp_path, names_read, caplog):
    spec = save(name, tmp_path)
    with caplog.at_level(logging.INFO, logger="colld_fairseq"):
        teacher = load_teacher(spec, [2], dtype="bfloat16")
    assert len(names_read) == len(set(names_read)) > 0
    assert blocks_of(names_read) == {0, 1}
    assert not any("decoder" in key for key in names_read)
    held = sum(weight.numel() for weight in teacher.module.parameters()) * 2
    assert f"2 of 4 blocks are read, {held / 1e9:.2f} GB in torch.bfloat16; blocks 3 to 4 stay unread" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("files", FILES)
def test_whatever_the_files_are_the_weights_are_the_same(files, dtype, tmp_path):
    """Also those that the student encoder joins, folds, or has and the file has not."""
    spec = save("omniasr", tmp_path, files, dtype)
    state = {}
    for path in sorted(tmp_path.glob("*.safetensors")) + sorted(tmp_path.glob("*.bin")):
        state.update(load_file(path) if path.suffix == ".safetensors" else torch.load(path))
    tower = "model.audio_tower."
    weights = read_encoder(spec).weights
    assert isinstance(weights, StoredWeights) and set(weights) == set(shapes_of(weights))
    for index in range(BLOCKS):
        theirs = [state[f"{tower}layers.{index}.attention.{part}_proj.weight"] for part in "qkv"]
        assert torch.equal(weights[f"blocks.{index}.attention.qkv.weight"], torch.cat(theirs))
    gain, direction = weights["pos_conv.weight_g"], weights["pos_conv.weight_v"]
    folded = gain * direction.float() / direction.float().norm(dim=(0, 1), keepdim=True)
    torch.testing.assert_close(folded, state[f"{tower}encode_positions.conv.weight"].float())
    assert not weights["mask_emb"].any() and weights["mask_emb"].shape == (24,)
    for name, shape in shapes_of(weights).items():
        assert weights[name].shape == shape.shape and weights[name].dtype == shape.dtype and not weights[name].is_meta
    half = dict(weights.in_turn(torch.float16))
    assert all(torch.equal(value, weights[name].half()) for name, value in half.items()) and len(half) == len(weights)


@pytest.mark.parametrize("name, layers, taken", [("wav2vec2", "2,4", {1, 3}), ("whisper", "", {1, 3})])
def test_a_student_reads_the_blocks_that_start_it(name, layers, taken, tmp_path, names_read):
    """And what is outside of blocks."""
    spec = save(name, tmp_path)
    full = read_encoder(spec)
    expected = full.build()
    names_read.clear()
    student = StudentEncoder(replace(full.config, layers=2))
    start_student(student, spec, layers)
    assert blocks_of(names_read) == taken and len(names_read) == len(set(names_read))
    state, theirs = student.state_dict(), expected.state_dict()
    for key, value in state.items():
        source = key.replace("blocks.1.", "blocks.3.").replace("blocks.0.", "blocks.1.")
        assert torch.equal(value, theirs[source]), key


def test_no_memory_is_shared_with_what_was_built(tmp_path):
    checkpoint = read_encoder(save("omniasr", tmp_path))
    encoder = checkpoint.build()
    with torch.no_grad():
        for value in encoder.parameters():
            value.fill_(7.0)
    assert not any((value == 7.0).all() for value in checkpoint.weights.values())


def damage(directory, how):
    """Returns what the message has to say."""
    part = directory / "part-2.safetensors"  # with weights of every block
    if how == "truncated":
        part.write_bytes(part.read_bytes()[:-8])
        return f"{part}: cannot be read as weights"
    if how == "a shard is missing":
        part.unlink()
        return f"shards are missing: {part}"
    state = load_file(part)
    key = next(name for name in state if "layers.0.feed_forward.intermediate_dense.weight" in name or "q_proj" in name)
    value = state.pop(key)
    if how == "another shape":
        save_file({**state, key: value[:-1].clone()}, part)
        return "1 of another shape"
    save_file(state, part)
    return "1 missing"


@pytest.mark.parametrize("how", ["truncated", "a shard is missing", "another shape", "a key is missing"])
def test_damaged_shards_are_refused_by_name(how, tmp_path):
    spec = save("omniasr", tmp_path, "shards")
    message = damage(tmp_path, how)
    for error, read in ((TeacherError, lambda: load_teacher(spec, [4])), (CheckpointError, lambda: read_encoder(spec))):
        with pytest.raises(error) as raised:
            read()
        assert message in str(raised.value) and str(tmp_path) in str(raised.value)
