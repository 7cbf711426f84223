"""omniASR's encoder on our modules: transformers' hidden states, whatever heads and padding; what is refused."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from colld_fairseq.checkpoints.encoder import read_encoder
from colld_fairseq.checkpoints.verify import compare, open_native
from colld_fairseq.cli import main as colld
from colld_fairseq.errors import TeacherError
from colld_fairseq.models.colld_student import start_student
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.teachers import describe_teacher, load_teacher

CONVOLUTIONS = dict(conv_dim=(8, 8, 8), conv_kernel=(10, 3, 2), conv_stride=(5, 4, 2))
POSITIONS = dict(num_conv_pos_embeddings=6, num_conv_pos_embedding_groups=2)
WIDTHS = {80: 160, 128: 256, 12: 24}  # by size of a head: of 1B, of 3B and 7B, of neither
LAYERS = [0, 1, 2, 3, 4]  # 4 = behind the final norm


def audio_config(head_size):
    width = WIDTHS[head_size]
    shape = dict(hidden_size=width, num_hidden_layers=3, num_attention_heads=width // head_size, intermediate_size=40)
    return transformers.OmniASRAudioConfig(**shape, **CONVOLUTIONS, **POSITIONS)


def save(model, directory, **preprocessor):
    with torch.no_grad():  # norms start as the identity and would hide a mistake
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    model.eval().save_pretrained(directory)
    transformers.OmniASRFeatureExtractor(**preprocessor).save_pretrained(directory)
    return f"hf:{directory}", model


@pytest.fixture(scope="module", params=WIDTHS)
def ctc_model(request, tmp_path_factory):
    """(spec, model) of a CTC model."""
    torch.manual_seed(request.param)
    config = transformers.OmniASRCTCConfig(audio_config=audio_config(request.param), vocab_size=9)
    return save(transformers.OmniASRForCTC(config), tmp_path_factory.mktemp("omniasr"))


@pytest.fixture
def directory(tmp_path):
    """Of a CTC model that a test may damage."""
    torch.manual_seed(0)
    config = transformers.OmniASRCTCConfig(audio_config=audio_config(12), vocab_size=9)
    save(transformers.OmniASRForCTC(config), tmp_path)
    return tmp_path


def library_states(tower, waveforms, lengths, do_normalize=True):
    """transformers on a padded batch, from the waveforms on: ({layer: [B, T, D]}, frames [B])."""
    extractor = transformers.OmniASRFeatureExtractor(do_normalize=do_normalize)
    inputs = extractor([row[:size].numpy() for row, size in zip(waveforms, lengths.tolist())], sampling_rate=16000)
    states = {}
    handles = [tower.layers[0].register_forward_pre_hook(lambda m, a: states.__setitem__(0, a[0]))]
    for index, block in enumerate(tower.layers, start=1):
        handles.append(block.register_forward_hook(lambda m, a, o, n=index: states.__setitem__(n, o)))
    with torch.no_grad():
        output = tower(**inputs)
    for handle in handles:
        handle.remove()
    states[len(tower.layers) + 1] = output.last_hidden_state
    return states, output.attention_mask.sum(1)


def test_equals_the_library_in_a_padded_batch(ctc_model, utterances):
    spec, model = ctc_model
    expected, frames = library_states(model.model.audio_tower, *utterances)
    output = load_teacher(spec, LAYERS)(*utterances)
    assert output.lengths.tolist() == frames.tolist() and len(set(frames.tolist())) == 3
    for layer in LAYERS:
        for row, size in enumerate(frames.tolist()):
            theirs = expected[layer][row, :size]
            assert theirs.std() > 0.1
            tolerance = 1e-5 * max(1.0, float(theirs.abs().max()))
            torch.testing.assert_close(output.features[layer][row, :size], theirs, atol=tolerance, rtol=0)
            assert not output.features[layer][row, size:].any()


def test_what_is_known_before_the_weights(ctc_model):
    spec, model = ctc_model
    info, teacher = describe_teacher(spec), load_teacher(spec, [2])
    width = model.config.audio_config.hidden_size
    assert (info.num_layers, info.width, info.frame_rate_hz) == (3, width, 16000 / 40)
    assert (teacher.num_layers, teacher.width, teacher.frame_rate_hz) == (3, width, 16000 / 40)
    assert isinstance(teacher.module, StudentEncoder) and len(teacher.module.blocks) == 2


def test_feed_forward_outputs(ctc_model, utterances):
    spec, model = ctc_model
    seen = {}
    dense = model.model.audio_tower.layers[1].feed_forward.output_dense
    handle = dense.register_forward_hook(lambda m, a, o: seen.update(y=o))
    waveforms, lengths = utterances
    library_states(model.model.audio_tower, waveforms[:1], lengths[:1])
    handle.remove()
    output = load_teacher(spec, [2], kind="ffn")(waveforms[:1], lengths[:1])
    torch.testing.assert_close(output.features[2], seen["y"], atol=1e-5, rtol=1e-5)


def test_waveforms_as_they_are_where_the_extractor_says_so(tmp_path, utterances):
    torch.manual_seed(1)
    spec, tower = save(transformers.OmniASRAudioModel(audio_config(12)), tmp_path, do_normalize=False)
    expected, frames = library_states(tower, *utterances, do_normalize=False)
    output = load_teacher(spec, [3])(*utterances)
    torch.testing.assert_close(output.features[3][0], expected[3][0], atol=1e-5, rtol=1e-5)
    normalized, _ = library_states(tower, *utterances)
    assert (normalized[3][0] - expected[3][0]).abs().max() > 1e-2


def test_the_encoder_of_a_model_with_a_language_model(tmp_path, utterances):
    torch.manual_seed(2)
    text = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=30)
    text.update(num_key_value_heads=2, model_type="llama")
    config = transformers.OmniASRConfig(audio_config=audio_config(12), text_config=text, audio_token_id=29)
    spec, model = save(transformers.OmniASRForConditionalGeneration(config), tmp_path)
    expected, _ = library_states(model.model.audio_tower, *utterances)
    output = load_teacher(spec, [1])(*utterances)
    torch.testing.assert_close(output.features[1][0], expected[1][0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_starts_a_student(ctc_model, utterances):
    spec, model = ctc_model
    config = read_encoder(spec).config
    student = StudentEncoder(config).eval()
    start_student(student, spec, "1,2,3")
    waveform = torch.randn(1, 4000)
    expected = model.model.audio_tower(waveform[None]).last_hidden_state
    torch.testing.assert_close(student(waveform).x, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("target", ["hf:{}/hubert", "colld:{}/student.pt", "fairseq:{}/hubert.pt"])
def test_converts(directory, target, tmp_path, capsys):
    """Position weights that were folded are unfolded; the encoder is that of HuBERT Large."""
    target = target.format(tmp_path)
    assert colld(["convert", "--from", f"hf:{directory}", "--to", target]) == 0, capsys.readouterr().err
    waveform = torch.randn(5000).numpy()
    rows = compare(open_native(f"hf:{directory}"), open_native(target), waveform)
    assert [row.layer for row in rows] == ["input", "0", "1", "2", "3", "output"]
    assert all(row.within(1e-5) for row in rows[1:])


def change(directory, **audio):
    path = directory / "config.json"
    settings = json.loads(path.read_text())
    settings["audio_config"].update(audio)
    path.write_text(json.dumps(settings))


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(num_attention_heads=5), "num_attention_heads is 5; hidden_size 24 is no multiple"),
        (dict(num_attention_heads=0), "num_attention_heads is 0"),
        (dict(hidden_act="relu"), "hidden_act='relu'"),
        (dict(hidden_size=48), "of another shape"),
        (dict(num_hidden_layers=4), "layers.3.attention"),
    ],
)
def test_settings_that_do_not_fit_are_refused(directory, settings, message):
    change(directory, **settings)
    with pytest.raises(TeacherError, match=message):
        load_teacher(f"hf:{directory}", [2, settings.get("num_hidden_layers", 3)])


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("model.audio_tower.layers.1.attention.q_proj.bias", None, r"1 missing \(layers.1.attention.q_proj.bias\)"),
        ("model.audio_tower.encode_positions.conv.weight", None, "2 missing.*encode_positions.conv.weight_g"),
        ("model.audio_tower.layers.0.layer_norm.weight", "model.audio_tower.layers.0.norm1.weight",
         "missing.*without a place .*norm1.weight"),
    ],
)  # fmt: skip
def test_missing_and_renamed_weights_are_refused(directory, old, new, message):
    path = directory / "model.safetensors"
    weights = load_file(path)
    tensor = weights.pop(old)
    save_file({**weights, **({new: tensor} if new else {})}, path, metadata={"format": "pt"})
    with pytest.raises(TeacherError, match=message):
        load_teacher(f"hf:{directory}", [2])


def test_features_of_a_manifest_are_cached(directory, corpus, tmp_path):
    words = ["features", "--manifest", str(corpus / "test.tsv"), "--teacher", f"hf:{directory}", "--layers", "1,3"]
    assert colld([*words, "--out", str(tmp_path / "features")]) == 0
