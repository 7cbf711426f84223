"""Tokenizers of pretrained decoders as vocabularies: ids, prefixes, text there and back, tokens that were kept."""

import json
import shutil
from types import SimpleNamespace

import pretrained
import pytest
import torch
import transformers

from colld_fairseq.data import vocabulary_copy
from colld_fairseq.data.decoder_prefix import match_language
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.pretrained_vocabulary import PretrainedVocabulary, used_tokens
from colld_fairseq.errors import ConfigError

FAMILIES = ("whisper", "m2m100", "nllb", "mbart50")
HEADER = "id\taudio\tn_frames\ttgt_text\tspeaker\tsrc_text\tsrc_lang\ttgt_lang\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Family -> directory and vocabulary."""
    folders = {name: tmp_path_factory.mktemp(name) for name in FAMILIES}
    for name, folder in folders.items():
        getattr(pretrained, f"write_{name}")(folder)
    return {
        name: SimpleNamespace(folder=folder, vocab=PretrainedVocabulary(folder)) for name, folder in folders.items()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_the_model(models, family):
    at = models[family]
    tokenizer = transformers.AutoTokenizer.from_pretrained(at.folder)
    config = json.loads((at.folder / "config.json").read_text())
    assert len(at.vocab.dictionary) == config["vocab_size"]
    text = "please enter número 7"
    expected = tokenizer(f" {text}" if family == "whisper" else text, add_special_tokens=False)["input_ids"]
    assert at.vocab.encode(text, append_eos=True).tolist() == [*expected, config["eos_token_id"]]
    symbols = at.vocab.dictionary
    assert len({symbols.pad(), symbols.eos(), symbols.bos()}) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_text_comes_back(models, family):
    vocab, text = models[family].vocab, "por favor ingrese su número"
    ids = vocab.encode(text, append_eos=True)
    assert vocab.decode(ids) == text and vocab.detokenize(ids.tolist()) == text
    assert vocab.dictionary.string(ids) == text  # fairseq-generate's lines
    assert len(vocab.dictionary.string(ids, "none").split()) == len(ids) - 1
    assert vocab.decode(vocab.encode("", append_eos=True)) == ""


def test_prefixes_of_whisper(models):
    vocab = models["whisper"].vocab

    def written(*pair):
        return [vocab.dictionary[index] for index in vocab.prefix(*pair)]

    start, end = "<|startoftranscript|>", "<|notimestamps|>"
    assert written("es", "en") == [start, "<|es|>", "<|translate|>", end]
    assert written("es-MX", "es") == [start, "<|es|>", "<|transcribe|>", end]
    assert written("", "ru") == [start, "<|ru|>", "<|transcribe|>", end]
    assert written("en", "en_US") == [start, "<|en|>", "<|transcribe|>", end]
    with pytest.raises(ConfigError, match="a.tsv:3: from 'en' into 'es': Whisper translates into English only"):
        vocab.prefix("en", "es", "a.tsv:3")
    with pytest.raises(ConfigError, match="language 'pl' is none of the 5"):
        vocab.prefix("pl", "en")
    tags = vocab.tags(["en", "ru"], "", 2, "cpu", ["es", ""])
    assert tags.tolist() == [vocab.prefix("es", "en"), vocab.prefix("", "ru")]
    assert vocab.tags(None, "en", 1, "cpu", ["es"]).tolist() == [vocab.prefix("es", "en")]
    with pytest.raises(ConfigError, match="target language is not known: give --tgt-lang"):
        vocab.tags(None, "", 1, "cpu")


@pytest.mark.parametrize("family, target, token", [("m2m100", "de", "__de__"), ("nllb", "rus", "rus_Cyrl")])
def test_prefixes_of_text_decoders(models, family, target, token):
    vocab = models[family].vocab
    assert [vocab.dictionary[index] for index in vocab.prefix("es", target)] == ["</s>", token]
    assert vocab.prefix("es", target) == vocab.prefix("", target)  # the decoder is not told what was spoken


def test_prefix_of_mbart50(models):
    vocab = models["mbart50"].vocab
    assert [vocab.dictionary[index] for index in vocab.prefix("en", "zh-CN")] == ["</s>", "zh_CN"]


def test_a_decoder_that_begins_with_something_else_is_refused(models, tmp_path):
    shutil.copytree(models["mbart50"].folder, tmp_path / "cc25")
    path = tmp_path / "cc25" / "config.json"
    config = {**json.loads(path.read_text()), "decoder_start_token_id": 74}
    path.write_text(json.dumps(config))
    (tmp_path / "cc25" / "generation_config.json").unlink()
    with pytest.raises(ConfigError, match="cc25: its decoder does not begin with </s> and a language"):
        PretrainedVocabulary(tmp_path / "cc25")


def test_languages_that_could_be_several():
    known = dict.fromkeys(["zho_Hans", "zho_Hant", "eng_Latn", "pt"])
    assert [match_language(code, known) for code in ("eng", "pt-BR", "zho_Hans")] == ["eng_Latn", "pt", "zho_Hans"]
    with pytest.raises(ConfigError, match="'zho' could be zho_Hans or zho_Hant"):
        match_language("zho", known)


def test_what_decoding_leaves_out(models):
    vocab = models["whisper"].vocab
    named = {vocab.dictionary[index] for index in vocab.never_written}
    assert {"!", "<|startoftranscript|>", "<|es|>", "<|translate|>", "<|0.04|>", "<|startofprev|>"} <= named
    assert not named & {"<|endoftext|>", "Ġ", "a"}
    assert {vocab.dictionary[index] for index in vocab.never_first} == {"Ġ", "<|endoftext|>"}
    text = models["m2m100"].vocab
    assert {"__de__", "<s>"} <= {text.dictionary[index] for index in text.never_written}
    assert not text.never_written & {text.dictionary.eos(), text.dictionary.unk()}


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_tokens(models, family, tmp_path):
    """What the targets need, and single characters for other text; all else has no row in the embeddings."""
    at, languages = models[family], ("ru", "en") if family != "nllb" else ("rus_Cyrl", "eng_Latn")
    rows = ["1\ta.wav\t100\tplease enter\ts\t\t{}\t{}\n", "2\tb.wav\t100\tпароль\ts\t\t{}\t{}\n"]
    rows = [row.format(*pair) for row, pair in zip(rows, (languages, languages[:1] * 2))]
    (tmp_path / "train.tsv").write_text(HEADER + "".join(rows), encoding="utf-8")
    copy = vocabulary_copy.copy_of_decoder(at.folder, str(tmp_path / "train.tsv"))
    kept = json.loads(copy["kept_tokens.json"].numpy().tobytes())["ids"]
    assert kept == used_tokens(at.vocab, [read_manifest(str(tmp_path / "train.tsv"))]) and len(kept) == len(set(kept))
    vocab = vocabulary_copy._open_copy(copy, "here")
    assert len(vocab.dictionary) == len(kept) < len(at.vocab.dictionary)
    assert vocab.dictionary.symbols == [at.vocab.dictionary[index] for index in kept]
    for text in ("please enter", "пароль"):
        assert [kept[i] for i in vocab.encode(text, False)] == at.vocab.encode(text, False).tolist()
    other = "please enter your password"  # pieces that were not kept
    assert (
        len(vocab.encode(other, False)) > len(at.vocab.encode(other, False))
        and vocab.decode(vocab.encode(other, False)) == other
    )
    for source, target in ((languages[0], languages[1]), (languages[0], languages[0])):
        assert [kept[i] for i in vocab.prefix(source, target)] == at.vocab.prefix(source, target)
    missing = "spa_Latn" if family == "nllb" else "es"
    with pytest.raises(ConfigError, match=f"language '{missing}' is none of"):
        vocab.prefix(missing, missing)


def test_directories_that_are_none_of_a_decoder(models, tmp_path):
    shutil.copytree(models["whisper"].folder, tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / name).unlink()
    with pytest.raises(ConfigError, match="bare: (no tokenizer that can be read|its tokenizer has no <\\|startoft)"):
        PretrainedVocabulary(tmp_path / "bare")
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "bart"}')
    with pytest.raises(ConfigError, match="bare: a decoder of 'bart' is not known; take Whisper, M2M-100"):
        PretrainedVocabulary(tmp_path / "bare")
    with pytest.raises(ConfigError, match="--decoder-from 'fairseq:x.pt': write hf:DIR"):
        vocabulary_copy.open_vocabulary("", None, None, "fairseq:x.pt")


def test_a_checkpoint_brings_its_own(models, tmp_path):
    copy = vocabulary_copy.copy_of_decoder(models["whisper"].folder)
    assert "model.safetensors" not in copy and sum(part.numel() for part in copy.values()) < 200_000
    path = str(tmp_path / "model.pt")
    torch.save({"task_state": {vocabulary_copy.NAME: copy}}, path)
    for where in ({"evaluated": path}, {"evaluated": None, "restored": path}):
        vocab, same = vocabulary_copy.open_vocabulary(str(tmp_path), **where)
        assert vocab.dictionary.symbols == models["whisper"].vocab.dictionary.symbols
        vocabulary_copy.check_same(same, copy, "here")
    gone = f"hf:{tmp_path / 'gone'}"
    vocabulary_copy.open_vocabulary("", None, path, gone)  # the checkpoint has all that is needed
    with pytest.raises(
        ConfigError, match="--decoder-from hf:.*its config.json is not that of the decoder in .*model.pt"
    ):
        vocabulary_copy.open_vocabulary("", None, path, f"hf:{models['m2m100'].folder}")
    with pytest.raises(ConfigError, match="trained with another vocabulary"):
        vocabulary_copy.check_same(copy, vocabulary_copy.copy_of_decoder(models["nllb"].folder), "there")
