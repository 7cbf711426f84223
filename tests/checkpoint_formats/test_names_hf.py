"""What a directory of transformers says of its model's input, wherever it says it."""

import json

import pytest
import torch
import transformers

from colld_fairseq.checkpoints.encoder import hash_of, read_encoder
from colld_fairseq.checkpoints.names_hf import read_preprocessor
from colld_fairseq.checkpoints.verify import open_native
from colld_fairseq.errors import CheckpointError, TeacherError
from colld_fairseq.teachers import load_teacher

TINY = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7)
POSITIONS = dict(num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
SETTINGS = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000}
NEW, OLD = "processor_config.json", "preprocessor_config.json"


@pytest.fixture(params=["Hubert", "WavLM"])
def directory(request, tmp_path):
    """A model on our modules, and one on transformers'."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{request.param}Config")(**TINY, **POSITIONS, feat_extract_norm="layer")
    getattr(transformers, f"{request.param}Model")(config).save_pretrained(tmp_path)
    return tmp_path


def extractor(normalize, **changes):
    return {**SETTINGS, "do_normalize": normalize, **changes}


# files of a directory -> whether waveforms are normalized
LAYOUTS = {
    "transformers 4": ({OLD: extractor(False)}, False),
    "transformers 5": ({NEW: {"feature_extractor": extractor(False), "processor_class": "Wav2Vec2Processor"}}, False),
    "transformers 5, normalized": ({NEW: {"feature_extractor": extractor(True)}}, True),
    "an audio processor": ({NEW: {"audio_processor": extractor(False)}}, False),
    "the nested one comes first": ({NEW: {"feature_extractor": extractor(False)}, OLD: extractor(True)}, False),
    "nothing nested": ({NEW: {"processor_class": "Wav2Vec2Processor"}, OLD: extractor(False)}, False),
    "not said": ({NEW: {"feature_extractor": SETTINGS}}, True),
    "no file": ({}, True),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_normalization_is_that_of_transformers(layout, directory, caplog):
    files, normalized = LAYOUTS[layout]
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    spec = f"hf:{directory}"
    assert read_encoder(spec).config.input.normalization == ("utterance" if normalized else "none")
    assert ("neither preprocessor_config.json nor processor_config.json" in caplog.text) == (not files)
    waveform = 3 * torch.randn(4000) + 1
    native = open_native(spec)
    source = native.prepare(waveform.numpy())
    assert torch.allclose(source.mean(), torch.zeros(()), atol=1e-4) == normalized
    ours = load_teacher(spec, [1])(waveform[None], torch.tensor([4000])).features[1][0]
    torch.testing.assert_close(ours, native.layers(source)["1"], atol=1e-4, rtol=0)


def test_the_file_that_decides_is_part_of_the_identity(directory):
    spec, hashes = f"hf:{directory}", []
    for files in ({}, {OLD: extractor(True)}, {OLD: extractor(False)}, {NEW: {"feature_extractor": extractor(True)}}):
        for name, content in files.items():
            (directory / name).write_text(json.dumps(content))
        hashes.append(hash_of(spec))
    assert len(set(hashes)) == 4
    (directory / OLD).write_text(json.dumps(extractor(True, sampling_rate=8000)))  # not what decides
    assert hash_of(spec) == hashes[-1] == load_teacher(spec, [1]).content_hash


@pytest.mark.parametrize("name", [OLD, NEW])
@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(sampling_rate=8000), "sampling_rate is 8000, and audio is 16000 Hz"),
        (dict(sampling_rate=44100), "sampling_rate is 44100"),
        (dict(sampling_rate="16 kHz"), "sampling_rate is '16 kHz'"),
        (dict(sampling_rate=None), "sampling_rate is None"),
        (dict(do_normalize="false"), "do_normalize is 'false'; it can be true or false"),
        (dict(do_normalize=None), "do_normalize is None"),
    ],
)
def test_what_cannot_be_is_refused_with_the_file(name, changes, message, directory):
    settings = {**extractor(True), **changes}
    (directory / name).write_text(json.dumps(settings if name == OLD else {"feature_extractor": settings}))
    with pytest.raises(CheckpointError, match=f"{name}: {message}"):
        read_encoder(f"hf:{directory}")
    with pytest.raises(TeacherError, match=f"{name}: {message}"):
        load_teacher(f"hf:{directory}", [1])


@pytest.mark.parametrize("family", ["whisper", "wav2vec2-bert"])
def test_filterbank_models_are_checked_too_and_need_no_file(family, tmp_path, caplog):
    assert read_preprocessor(tmp_path, family) == {} and not caplog.text
    (tmp_path / OLD).write_text(json.dumps({"sampling_rate": 8000}))
    with pytest.raises(CheckpointError, match="sampling_rate is 8000"):
        read_preprocessor(tmp_path, family)
