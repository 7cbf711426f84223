"""Every family: the library's hidden states, and independence of padding."""

import numpy as np
import pytest
import torch
import transformers

from colld_fairseq.errors import TeacherError
from colld_fairseq.teachers import load_teacher
from colld_fairseq.teachers.huggingface import normalized_fbank

WAVEFORM = [
    "wav2vec2-group",
    "wav2vec2-layer",
    "hubert-group",
    "hubert-layer",
    "hubert-group-batchnorm",
    "wavlm-group",
    "wavlm-layer",
    "data2vec",
]
FBANK = ["w2v-bert", "w2v-bert-relative", "w2v-bert-rotary"]
LAYERS = [0, 1, 2, 3]


def library_inputs(name, waveform):
    """What transformers' feature extractor makes of an utterance; filterbanks are compared on their own below."""
    waveform = waveform.numpy()
    if name in FBANK:
        features = normalized_fbank(waveform)
        features = features[: len(features) // 2 * 2].reshape(1, -1, 160)
        return {"input_features": torch.from_numpy(features)}
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize="group" in name)
    return extractor(waveform, sampling_rate=16000, return_tensors="pt")


def library_states(name, model, waveform):
    """Raw outputs of all blocks, layer number -> [T, D], by hooks of the test's own."""
    states = {}
    blocks = model.encoder.layers
    handles = [blocks[0].register_forward_pre_hook(lambda m, a: states.__setitem__(0, a[0][0].clone()))]
    for index, block in enumerate(blocks, start=1):
        handles.append(
            block.register_forward_hook(
                lambda m, a, o, n=index: states.__setitem__(n, (o[0] if isinstance(o, tuple) else o)[0])
            )
        )
    with torch.no_grad():
        model(**library_inputs(name, waveform))
    for handle in handles:
        handle.remove()
    return states


@pytest.mark.parametrize("name", WAVEFORM + FBANK)
def test_equals_the_library(name, tiny_teacher, utterances):
    directory, model = tiny_teacher(name)
    teacher = load_teacher(f"hf:{directory}", LAYERS)
    waveforms, lengths = utterances
    for waveform, length in zip(waveforms, lengths.tolist()):
        expected = library_states(name, model, waveform[:length])
        output = teacher(waveform[None, :length], torch.tensor([length]))
        frames = int(output.lengths[0])
        assert frames == expected[1].size(0)
        for layer in LAYERS:
            assert expected[layer].std() > 0.1
            torch.testing.assert_close(output.features[layer][0], expected[layer], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", WAVEFORM + FBANK)
@pytest.mark.parametrize("kind", ["layer", "ffn"])
def test_padding_changes_no_valid_frame(name, kind, tiny_teacher, utterances):
    directory, _ = tiny_teacher(name)
    layers = LAYERS if kind == "layer" else LAYERS[1:]
    teacher = load_teacher(f"hf:{directory}", layers, kind=kind)
    waveforms, lengths = utterances
    together = teacher(waveforms, lengths)
    assert together.lengths.tolist() == teacher.output_lengths(lengths).tolist()
    for row, length in enumerate(lengths.tolist()):
        alone = teacher(waveforms[row : row + 1, :length], lengths[row : row + 1])
        frames = int(alone.lengths[0])
        assert frames == int(together.lengths[row])
        for layer in layers:
            batch = together.features[layer][row]
            torch.testing.assert_close(batch[:frames], alone.features[layer][0], atol=1e-4, rtol=0)
            assert not batch[frames:].any()


@pytest.mark.parametrize("name", ["hubert-group", "wav2vec2-layer"])
def test_ffn_is_the_feed_forward_before_the_residual(name, tiny_teacher, utterances):
    directory, model = tiny_teacher(name)
    waveform = utterances[0][:1]
    seen = {}
    dense = model.encoder.layers[1].feed_forward.output_dense
    handle = dense.register_forward_hook(lambda m, a, o: seen.update(y=o))
    with torch.no_grad():
        model(**library_inputs(name, waveform[0]))
    handle.remove()
    teacher = load_teacher(f"hf:{directory}", [2], kind="ffn")
    output = teacher(waveform, torch.tensor([waveform.size(1)]))
    torch.testing.assert_close(output.features[2], seen["y"], atol=1e-4, rtol=0)


def test_w2v_bert_ffn_is_the_second(tiny_teacher, utterances):
    directory, model = tiny_teacher("w2v-bert")
    waveform = utterances[0][:1]
    seen = {}
    handle = model.encoder.layers[0].ffn2.register_forward_hook(lambda m, a, o: seen.update(y=o))
    with torch.no_grad():
        model(**library_inputs("w2v-bert", waveform[0]))
    handle.remove()
    output = load_teacher(f"hf:{directory}", [1], kind="ffn")(waveform, torch.tensor([waveform.size(1)]))
    frames = int(output.lengths[0])
    torch.testing.assert_close(output.features[1], seen["y"][:, :frames], atol=1e-4, rtol=0)


def test_fbank_equals_the_library():
    rng = np.random.default_rng(0)
    waveform = (0.1 * rng.standard_normal(16080)).astype(np.float32)
    ours = normalized_fbank(waveform)
    theirs = transformers.SeamlessM4TFeatureExtractor()(waveform, sampling_rate=16000)["input_features"][0]
    assert len(ours) == 99  # the library marks the frame that is left over as padding
    np.testing.assert_allclose(ours[:98].reshape(49, 160), theirs[:49], atol=1e-3)


def test_w2v_bert_from_waveform_equals_the_library(tiny_teacher, utterances):
    """End to end. Kaldi works in float32, transformers' filterbanks in float64: hence the tolerance."""
    directory, model = tiny_teacher("w2v-bert")
    waveforms, lengths = utterances
    batch = [waveform[:length].numpy() for waveform, length in zip(waveforms, lengths.tolist())]
    inputs = transformers.SeamlessM4TFeatureExtractor()(batch, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
    output = load_teacher(f"hf:{directory}", [3])(waveforms, lengths)
    assert output.lengths.tolist() == inputs["attention_mask"].sum(1).tolist()
    for row, frames in enumerate(output.lengths.tolist()):
        ours = output.features[3][row, :frames]
        torch.testing.assert_close(ours, expected[row, :frames], atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["hubert-group", "data2vec", "w2v-bert", "wavlm-layer"])
def test_half_precision(name, dtype, tiny_teacher, utterances):
    directory, _ = tiny_teacher(name)
    full = load_teacher(f"hf:{directory}", [3])(*utterances).features[3]
    half = load_teacher(f"hf:{directory}", [3], dtype=dtype)(*utterances).features[3]
    assert half.dtype == getattr(torch, dtype)
    assert (half.float() - full).norm() < 0.05 * full.norm()


def test_keeps_no_block_above_the_highest_layer(tiny_teacher):
    directory, _ = tiny_teacher("hubert-group")
    teacher = load_teacher(f"hf:{directory}", [2])
    assert len(teacher.module.blocks) == 2
    assert teacher.num_layers == 3
    assert teacher.width == 24
    assert teacher.frame_rate_hz == 16000 / 40


def test_unknown_family(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(TeacherError, match="model_type 'bert'; supported: .*hubert.*whisper"):
        load_teacher(f"hf:{tmp_path}", [1])
