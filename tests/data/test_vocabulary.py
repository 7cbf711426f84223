"""Vocabulary folders: what is wrong with a damaged one is said, and bytes of sentencepiece models become text."""

import pytest
import sentencepiece
import torch
import yaml

from colld_fairseq.data.checks import load_tokens
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.errors import ConfigError


def write(folder, config="vocab_filename: dict.txt\n", symbols="a 1\nb 2\n| 3\n"):
    folder.mkdir(exist_ok=True)
    for name, content in (("config.yaml", config), ("dict.txt", symbols)):
        if content is not None:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


CONFIGS = {
    "": "config.yaml: empty",
    "   \n# nothing\n": "config.yaml: empty",
    "- a\n- b\n": "config.yaml: no options",
    "just text": "config.yaml: no options",
    "a: [1,\n": "config.yaml: not YAML",
    b"vocab_filename: \xff\n": "config.yaml: not UTF-8",
    "vocab_filename: other.txt\n": "other.txt: cannot be read",
    "vocab_filename: [1]\n": "config.yaml: vocab_filename is",
    "vocab_filename: .\n": "cannot be read .Is a directory",
    "bpe_tokenizer: words\n": "config.yaml: bpe_tokenizer is 'words'",
    "bpe_tokenizer: {bpe: sentencepiece}\n": "names no sentencepiece_model",
    "bpe_tokenizer: {bpe: sentencepiece, sentencepiece_model: gone.model}\n": "model not found: .*gone.model",
    "bpe_tokenizer: {bpe: sentencepiece, sentencepiece_model: dict.txt}\n": "dict.txt: no sentencepiece model",
    "text_normalization: [lowercase]\n": "config.yaml: text_normalization is",
}
SYMBOLS = {
    "": "dict.txt: no symbol",
    "\n\n": "dict.txt: no symbol",
    "a 1\nb 1\na 1\n": "dict.txt:3: the symbol 'a' is there already, on line 1",
    "a 1\n<unk> 1\n": "dict.txt:2: the symbol '<unk>' is there already, one of fairseq's",
    "a\nb\n": "dict.txt:1: 'a' is no symbol with its count",
    "a 1\nb x\n": "dict.txt:2: 'b x' is no symbol with its count",
    "a 1.5\n": "dict.txt:1: 'a 1.5' is no symbol",
    b"a 1\n\xe9 2\n": "dict.txt: not UTF-8",
}


@pytest.mark.parametrize("config", CONFIGS)
def test_damaged_configuration(config, tmp_path):
    with pytest.raises(ConfigError, match=f"{CONFIGS[config]}.*; make the vocabulary again with `colld vocab`"):
        Vocabulary(write(tmp_path / "v", config=config))


@pytest.mark.parametrize("symbols", SYMBOLS)
def test_damaged_dictionary(symbols, tmp_path):
    folder = write(tmp_path / "v", symbols=symbols)
    for read in (Vocabulary, lambda folder: load_tokens(f"{folder}/dict.txt")):
        with pytest.raises(ConfigError, match=f"{SYMBOLS[symbols]}.*; make the vocabulary again with `colld vocab`"):
            read(folder)


def test_missing_files_and_folders_in_their_place(tmp_path):
    with pytest.raises(ConfigError, match="no vocabulary in .*nowhere: make one with `colld vocab"):
        Vocabulary(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="dict.txt: cannot be read .No such file"):
        Vocabulary(write(tmp_path / "v", symbols=None))
    (tmp_path / "w" / "config.yaml").mkdir(parents=True)
    with pytest.raises(ConfigError, match="config.yaml: cannot be read .Is a directory"):
        Vocabulary(str(tmp_path / "w"))


def test_dictionaries_of_fairseq_itself(tmp_path):
    """Its flag for a symbol that takes the place of an earlier one, line ends of Windows, symbols with spaces."""
    folder = write(tmp_path / "v", symbols="a 1\r\nb c 7\r\na 2 #fairseq:overwrite\r\n")
    dictionary = Vocabulary(folder).dictionary
    assert dictionary.symbols[4:] == ["a", "b c", "a"] and dictionary.index("a") == 6


@pytest.fixture(scope="module")
def byte_fallback(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["abc de", "fgh abc", "de fgh"] * 20),
        model_prefix=str(folder / "spm"),
        vocab_size=280,
        byte_fallback=True,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        hard_vocab_limit=False,
        minloglevel=3,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    pieces = [model.id_to_piece(i) for i in range(4, model.get_piece_size())]
    tokenizer = {"bpe": "sentencepiece", "sentencepiece_model": "spm.model"}
    write(folder, yaml.safe_dump({"bpe_tokenizer": tokenizer}), "".join(f"{piece} 1\n" for piece in pieces))
    return Vocabulary(str(folder)), model


@pytest.mark.parametrize("text", ["abc é", "é", "abc 日本 de", "ά fgh 👍🏽 <0xC3> |", "שלום", "abc de"])
def test_bytes_become_the_text_that_they_were(text, byte_fallback):
    vocabulary, model = byte_fallback
    ids = vocabulary.encode(text, append_eos=True)
    assert vocabulary.decode(ids) == text == model.decode(model.encode(text))
    for post_process in (None, "sentencepiece", "letter"):  # as fairseq-generate prints it, one text or several
        assert vocabulary.dictionary.string(ids, post_process) == text
        assert vocabulary.dictionary.string(torch.stack([ids, ids]), post_process) == f"{text}\n{text}"
    assert "<0x" in vocabulary.dictionary.string(vocabulary.encode("é", False), "none")


def test_bytes_that_are_no_text(byte_fallback):
    vocabulary, _ = byte_fallback
    of = vocabulary.dictionary.index
    ids = torch.tensor([of("▁abc"), of("<0xC3>"), of("▁de"), of("<0x0A>"), of("<0x09>"), vocabulary.dictionary.unk()])
    assert vocabulary.decode(ids) == "abc\ufffd de  <unk>"  # no line end or tab, which would break a manifest
    assert vocabulary.decode(ids, unknown="") == "abc\ufffd de"


def test_letters_that_spell_a_byte_stay_letters(tmp_path):
    vocabulary = Vocabulary(write(tmp_path / "v", symbols="".join(f"{letter} 1\n" for letter in "<0xC3>|")))
    assert vocabulary.decode(vocabulary.encode("<0xC3> <0xC3>", True)) == "<0xC3> <0xC3>"
