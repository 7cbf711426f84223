"""Where public conversions of Whisper went wrong, in the directory that `colld convert --decoder-from` writes."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_whisper import ENGLISH_ONLY, complete_whisper, write_tokenizer

from colld_fairseq.checkpoints.encoder import EncoderCheckpoint, read_encoder
from colld_fairseq.checkpoints.verify import compare, open_native
from colld_fairseq.checkpoints.whisper_directory import open_whisper, write
from colld_fairseq.checkpoints.whisper_generation import complete_generation
from colld_fairseq.cli.convert import generated_signal
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.positions import SinusoidalPositions


@pytest.fixture
def teacher(tmp_path):
    directory = tmp_path / "teacher"
    directory.mkdir()
    complete_whisper(directory)
    return directory


def tensors(directory):
    return load_file(directory / "model.safetensors")


def save(directory, state):
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def complete(directory, out):
    write(out, read_encoder(f"hf:{directory}"), f"hf:{directory}")
    return json.loads((out / "config.json").read_text()), json.loads((out / "generation_config.json").read_text())


def test_positions_are_those_of_the_file(teacher, tmp_path):
    """Computed anew they differ in the last digits, or altogether: with the exponent over width / 2 instead of
    width / 2 - 1, and with sines and cosines in turns instead of one behind the other."""
    torch.testing.assert_close(
        SinusoidalPositions(1500, 24).weight,
        tensors(teacher)["model.encoder.embed_positions.weight"],
        atol=2e-4,
        rtol=0,
    )
    state = tensors(teacher)
    state["model.encoder.embed_positions.weight"] += 0.1 * torch.randn(1500, 24)
    save(teacher, state)
    complete(teacher, tmp_path / "out")
    name = "model.encoder.embed_positions.weight"
    assert torch.equal(tensors(tmp_path / "out")[name], state[name])


def test_keys_have_no_bias(teacher, tmp_path):
    """A student's may have got one in training. It changes nothing, and transformers has no place for it."""
    encoder = read_encoder(f"hf:{teacher}")
    weights = dict(encoder.weights)
    for name in [name for name in weights if name.endswith("qkv.bias")]:
        assert not weights[name][24:48].any()
        weights[name] = weights[name].clone()
        weights[name][24:48] = torch.randn(24)
    write(tmp_path / "out", EncoderCheckpoint(encoder.config, weights), f"hf:{teacher}")
    assert not [name for name in tensors(tmp_path / "out") if "k_proj.bias" in name]
    rows = compare(open_native(f"hf:{teacher}"), open_native(f"hf:{tmp_path}/out", complete=True), generated_signal())
    assert all(row.within(1e-4) for row in rows)
    given = EncoderCheckpoint(encoder.config, weights).build()
    mel = torch.randn(1, 300, 80)
    torch.testing.assert_close(given(mel).x, encoder.build()(mel).x, atol=1e-4, rtol=0)


def test_the_number_of_layers_under_its_other_name(teacher, tmp_path):
    """OpenAI's directories say num_hidden_layers as well, which is the encoder's: the teacher's would win."""
    change(teacher / "config.json", num_hidden_layers=3, num_attention_heads=2, hidden_size=24)
    encoder = read_encoder(f"hf:{teacher}", blocks=2)
    config = EncoderConfig(**{**vars(encoder.config), "layers": 2})
    write(tmp_path / "out", EncoderCheckpoint(config, encoder.weights), f"hf:{teacher}")
    assert transformers.WhisperConfig.from_pretrained(tmp_path / "out").encoder_layers == 2
    assert "num_hidden_layers" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_the_output_layer_is_the_embeddings(teacher, tmp_path):
    """Older files hold both, or the output layer alone; where they differ one would be lost without a word."""
    state = tensors(teacher)
    embeddings, head = "model.decoder.embed_tokens.weight", "proj_out.weight"
    expected = state[embeddings].clone()
    for kept in ((embeddings, head), (head,)):
        save(teacher, {**{n: t for n, t in state.items() if n != embeddings}, **{n: expected.clone() for n in kept}})
        complete(teacher, tmp_path / str(len(kept)))
        written = tensors(tmp_path / str(len(kept)))
        assert torch.equal(written[embeddings], expected) and head not in written
    save(teacher, {**state, head: expected + 1})
    with pytest.raises(ConfigError, match="proj_out.weight differs"):
        complete(teacher, tmp_path / "out")
    change(teacher / "config.json", tie_word_embeddings=False)
    complete(teacher, tmp_path / "out")
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert torch.equal(model.proj_out.weight, expected + 1)
    assert torch.equal(model.model.decoder.embed_tokens.weight, expected)


def test_special_tokens_are_looked_up(teacher, tmp_path):
    """Those of a multilingual model are wrong by one in an English-only one, and by one behind the languages in
    large-v3."""
    more = tmp_path / "more"
    more.mkdir()
    complete_whisper(more, languages=("en", "de", "es", "ru", "yue"))
    _, four = complete(teacher, tmp_path / "four")
    _, five = complete(more, tmp_path / "five")
    for name in ("decoder_start_token_id", "eos_token_id"):
        assert four[name] == five[name]
    for name in ("no_timestamps_token_id", "prev_sot_token_id"):
        assert four[name] + 1 == five[name]
    assert five["lang_to_id"] == {**four["lang_to_id"], "<|yue|>": four["task_to_id"]["translate"]}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "five")
    for token, index in [*five["lang_to_id"].items(), *((f"<|{t}|>", i) for t, i in five["task_to_id"].items())]:
        assert tokenizer.convert_tokens_to_ids(token) == index


def test_a_tokenizer_of_another_model_is_noticed(teacher, tmp_path):
    """Its ids are all there, and all wrong by one behind the languages."""
    write_tokenizer(teacher, languages=("en", "de", "es"))
    change(teacher / "generation_config.json", no_timestamps_token_id=268)
    with pytest.raises(ConfigError, match="no_timestamps_token_id 268, the tokenizer 267"):
        complete(teacher, tmp_path / "out")


def test_english_only_models_have_the_tokens_of_languages_too(tmp_path):
    """Only their size tells: with a language in the prompt they write nonsense."""
    for size, expected in ((ENGLISH_ONLY, False), (ENGLISH_ONLY + 1, True)):
        directory = tmp_path / str(size)
        directory.mkdir()
        write_tokenizer(directory, size=size)
        (directory / "config.json").write_text(json.dumps(dict(model_type="whisper", vocab_size=size)))
        generation = open_whisper(f"hf:{directory}").generation
        assert generation["is_multilingual"] is expected and ("lang_to_id" in generation) is expected


def test_what_generation_needs_is_there(teacher, tmp_path):
    """Without max_length transcripts end after 20 tokens, without a task the prompt has none where the language is
    detected; the end of text is also the padding."""
    _, generation = complete(teacher, tmp_path / "out")
    end = generation["eos_token_id"]
    assert generation["pad_token_id"] == end and generation["begin_suppress_tokens"] == [220, end]
    assert (generation["max_length"], generation["task"], generation["return_timestamps"]) == (24, "transcribe", False)
    assert "_from_model_config" not in generation and "alignment_heads" not in generation
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    suppressed = tokenizer.convert_ids_to_tokens(generation["suppress_tokens"])
    assert {"(", "[", "{", "<|startoftranscript|>", "<|startofprev|>", "<|nospeech|>"} <= set(suppressed)
    assert not {"a", ".", ",", "?", "!", "'", "-", "<|en|>", "<|endoftext|>"} & set(suppressed)


def test_what_the_teacher_says_is_kept(teacher):
    """Also an empty list of suppressed tokens (large-v3), and heads for the times of words: they are the decoder's."""
    said = dict(suppress_tokens=[], alignment_heads=[[0, 1]], max_length=448, pad_token_id=3, _from_model_config=True)
    whisper = open_whisper(f"hf:{teacher}")
    fields = complete_generation(said, whisper.settings, whisper.tokens)
    assert (fields["suppress_tokens"], fields["alignment_heads"], fields["pad_token_id"]) == ([], [[0, 1]], 3)


def test_a_forced_language_is_the_models_own_only(teacher):
    """config.json of OpenAI's models forces English; a fine-tuned model says its language in generation_config.json."""
    whisper = open_whisper(f"hf:{teacher}")
    tokens = whisper.tokens
    english, german = tokens.languages["<|en|>"], tokens.languages["<|de|>"]
    settings = {**whisper.settings, "forced_decoder_ids": [[1, english], [2, tokens.tasks["transcribe"]]]}
    fields = complete_generation({}, settings, tokens)
    assert "language" not in fields and "forced_decoder_ids" not in fields
    forced = [[1, german], [2, tokens.tasks["translate"]], [3, tokens.no_timestamps]]
    fields = complete_generation({"forced_decoder_ids": forced}, settings, tokens)
    assert (fields["language"], fields["task"]) == ("<|de|>", "translate") and "forced_decoder_ids" not in fields
    fields = complete_generation({"forced_decoder_ids": [[1, None], [2, tokens.tasks["transcribe"]]]}, {}, tokens)
    assert fields["task"] == "transcribe" and "language" not in fields


@pytest.mark.parametrize("bins", [80, 128])
def test_mel_bins(bins, tmp_path):
    """A directory without preprocessor_config.json: the default of 80 bins is wrong for large-v3."""
    directory = tmp_path / "teacher"
    directory.mkdir()
    complete_whisper(directory, bins)
    (directory / "preprocessor_config.json").unlink()
    complete(directory, tmp_path / "out")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "out")
    assert extractor.feature_size == bins == extractor.mel_filters.shape[1]
