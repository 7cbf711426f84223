"""Text as the model sees it: normalization, and the two tokenizations (characters, sentencepiece).

The vocabulary (`colld vocab`), the datasets and the scorer all go through this file, so a transcript is the same string
everywhere. What was chosen when the vocabulary was made is in its `config.yaml`; `load_text_codec` applies it.
"""

import itertools
import os
import re
import unicodedata
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

from colld_fairseq.errors import ConfigError
from colld_fairseq.parsing import parse_yaml

LETTER_BOUNDARY = "|"  # what fairseq's `--post-process letter` turns into a space
PIECE_BOUNDARY = "\u2581"  # what `--post-process sentencepiece` turns into a space
LANG_TAG_TEMPLATE = "<lang:{}>"  # fairseq's speech_to_text uses the same

# Typographic apostrophes sound alike; they are unified when punctuation is removed.
_APOSTROPHES = "'\u2019\u02bc\u2018\uff07"
# Never spoken and invisible: byte-order mark, zero-width space, soft hyphen, bidirectional controls. The
# joiners U+200C and U+200D stay: they change how Persian and Indic words are written.
_INVISIBLE = dict.fromkeys(
    [0xFEFF, 0x200B, 0x00AD, 0x2060, 0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)
_WHITESPACE = re.compile(r"\s+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")  # in every dictionary of fairseq, without a line
LETTERS = "dict.ltr.txt"  # of data for fairseq's audio_finetuning
FORMER_KEY = "text_normalisation"  # of text_normalization, in vocabularies made before the key was renamed
_OPTIONS = {"vocab_filename": str, "bpe_tokenizer": dict, "pre_tokenizer": dict, "text_normalization": dict}
_AGAIN = "make the vocabulary again with `colld vocab`, or copy the whole folder again"


def _is_word_character(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"


def _remove_punctuation(text: str) -> str:
    """Every character of Unicode category P becomes a space, except an apostrophe between two letters."""
    characters: List[str] = []
    for i, character in enumerate(text):
        if character in _APOSTROPHES:
            inside = 0 < i < len(text) - 1 and _is_word_character(text[i - 1]) and _is_word_character(text[i + 1])
            characters.append("'" if inside else " ")
        else:
            characters.append(" " if unicodedata.category(character)[0] == "P" else character)
    return "".join(characters)


@dataclass(frozen=True)
class TextNormalizer:
    """NFC, single spaces and no invisible control characters; optionally more.

    The options are stored under `text_normalization` in config.yaml.
    """

    lowercase: bool = False
    """Unicode lower-casing (not case-folding: German "ß" stays)."""
    remove_punctuation: bool = False
    """Characters of category P become spaces ("Weißenburg-Gunzenhausen" is two words, "1,000" is "1 000"); an
    apostrophe between letters is kept, written "'". Symbols (category S: "$", "+") are kept."""

    def __call__(self, text: str) -> str:
        text = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
        if self.lowercase:
            # lower() may decompose ("İ" becomes "i" and a combining dot), hence NFC again.
            text = unicodedata.normalize("NFC", text.lower())
        if self.remove_punctuation:
            text = _remove_punctuation(text)
        return _WHITESPACE.sub(" ", text).strip()

    @classmethod
    def from_config(cls, config: Optional[Mapping[str, Any]]) -> "TextNormalizer":
        """From the mapping under `text_normalization`; ConfigError on an option that does not exist."""
        config = dict(config or {})
        known = [option.name for option in fields(cls)]
        unknown = sorted(map(str, set(config) - set(known)))
        if unknown:
            raise ConfigError(f"text_normalization in config.yaml has unknown options {unknown}; known: {known}")
        return cls(**{key: bool(value) for key, value in config.items()})


class TextCodec:
    """Text to tokens and back, for one vocabulary.

    `kind` is "char" (code points after NFC, words separated by "|") or "sentencepiece". The character that marks a word
    boundary ("|" or "▁") cannot also be a letter: where it occurs literally in a text, it is read as a space.
    """

    def __init__(
        self,
        kind: str,
        normalizer: TextNormalizer = TextNormalizer(),
        sentencepiece_model: Union[str, Path, bytes, None] = None,
    ):
        if kind not in ("char", "sentencepiece"):
            raise ConfigError(f"unknown kind of vocabulary {kind!r}; use 'char' or 'sentencepiece'")
        self.kind = kind
        self.normalizer = normalizer
        self.boundary = LETTER_BOUNDARY if kind == "char" else PIECE_BOUNDARY
        self.post_process = "letter" if kind == "char" else "sentencepiece"
        self._processor: Any = None  # of sentencepiece
        self._bytes: Dict[str, int] = {}  # pieces of a model with byte fallback -> what they stand for
        if kind == "sentencepiece":
            self._processor = _load_sentencepiece(sentencepiece_model)
            bytes_of_model = filter(self._processor.is_byte, range(self._processor.get_piece_size()))
            self._bytes = {piece: int(piece[3:-1], 16) for piece in map(self._processor.id_to_piece, bytes_of_model)}

    def clean(self, text: str) -> str:
        """The text that `decode(encode(text))` gives back: what hypotheses are compared with."""
        return _WHITESPACE.sub(" ", self.normalizer(text).replace(self.boundary, " ")).strip()

    def encode(self, text: str) -> List[str]:
        """Tokens of the text; an empty list for an empty text."""
        text = self.clean(text)
        if self.kind == "char":
            return [self.boundary if character == " " else character for character in text]
        return self._processor.encode(text, out_type=str)

    def decode(self, tokens: Union[str, List[str]]) -> str:
        """Text of tokens (a list, or one string of them): as fairseq's post-processing makes it, and bytes of a model
        with byte fallback as the characters that they are, "\ufffd" where they are none."""
        if isinstance(tokens, str):
            tokens = tokens.split(" ")
        if self._bytes:
            tokens = self._join_bytes(tokens)
        return "".join(tokens).replace(" ", "").replace(self.boundary, " ").strip()

    def begins_word(self, symbol: str, before: str) -> bool:
        """Whether a word begins with this token, or behind it. before: the token in front of it, "" for none."""
        return symbol.startswith(self.boundary)

    def piece_scores(self) -> Dict[str, float]:
        """Log-probabilities of sentencepiece's pieces. ConfigError for a model that has none, or has byte fallback."""
        ids = range(self._processor.get_piece_size())
        scores = {self._processor.id_to_piece(i): self._processor.get_score(i) for i in ids}
        if self._bytes or all(score == int(score) for score in scores.values()):  # those of BPE are ranks
            kind = "with byte fallback" if self._bytes else "of BPE"
            raise ConfigError(f"a sentencepiece model {kind}; only a plain unigram model (`colld vocab`) can be taken")
        return scores

    def _join_bytes(self, tokens: Sequence[str]) -> List[str]:
        """Runs of bytes as text, control characters and line ends as a word boundary: a text is one line."""
        joined: List[str] = []
        for are_bytes, run in itertools.groupby(tokens, self._bytes.__contains__):
            if are_bytes:
                text = bytes(map(self._bytes.__getitem__, run)).decode("utf-8", errors="replace")
                joined.append(_CONTROL.sub(self.boundary, text).replace(" ", self.boundary))
            else:
                joined.extend(run)
        return joined


def _load_sentencepiece(model: Union[str, Path, bytes, None]) -> Any:
    """The processor of a model, given as a file or as its contents. Raises ConfigError."""
    import sentencepiece

    if isinstance(model, bytes):
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    if model is None or not Path(model).is_file():
        raise ConfigError(f"sentencepiece model not found: {model}; {_AGAIN}")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"{model}: no sentencepiece model ({error}); {_AGAIN}") from error


def vocabulary_file(vocabulary: Union[str, Path]) -> Path:
    """The configuration of a vocabulary that is named as a folder (its config.yaml) or as this file itself."""
    path = Path(vocabulary)
    return path if path.suffix in (".yaml", ".yml") and not path.is_dir() else path / "config.yaml"


def has_vocabulary(vocabulary: Union[str, Path]) -> bool:
    """Whether there is one that `read_vocabulary_config` finds."""
    path = vocabulary_file(vocabulary)
    return path.is_file() or path.with_name(LETTERS).is_file()


def file_beside(config: Union[str, Path], name: str) -> str:
    """The file that a configuration names; where it is not there (any more), one of its name in the same folder."""
    path, beside = (Path(config).parent / os.path.expanduser(part) for part in (name, os.path.basename(name)))
    return str(beside if beside.exists() and not path.exists() else path)


def read_vocabulary_config(vocabulary: Union[str, Path]) -> Dict[str, Any]:
    """What the config.yaml of a vocabulary folder (or such a file) says; of a folder with fairseq's dict.ltr.txt alone
    that this is the dictionary, of letters. Raises ConfigError naming the file and the remedy."""
    path = vocabulary_file(vocabulary)
    if not path.exists() and path.with_name(LETTERS).is_file():
        return {"vocab_filename": LETTERS}
    if not path.exists():
        raise ConfigError(
            f"no vocabulary in {vocabulary}: make one with `colld vocab --manifest ... --out {path.parent}`"
        )
    text = _read_text(path)
    try:
        config = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not YAML ({error}); {_AGAIN}") from error
    if not isinstance(config, dict) or not config:
        raise ConfigError(f"{path}: {'empty' if not config else 'no options in it'}; {_AGAIN}")
    if FORMER_KEY in config:
        config.setdefault("text_normalization", config.pop(FORMER_KEY))
    for option, kind in _OPTIONS.items():
        if not isinstance(config.get(option) or kind(), kind):
            raise ConfigError(f"{path}: {option} is {config[option]!r}; {_AGAIN}")
    return config


def read_symbols(path: Union[str, Path]) -> List[str]:
    """The symbols of a fairseq dict.txt, in order, without the four special ones.

    Raises ConfigError naming file, line and remedy: no such file, no UTF-8, a line without a count, a symbol that is
    there twice, no symbol at all.
    """
    line_of = dict.fromkeys(SPECIALS, 0)
    for line_number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        line = line.rstrip()
        overwrites = line.endswith(" #fairseq:overwrite")
        symbol, _, count = line.removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not symbol or not count.isdecimal():
            raise ConfigError(f"{path}:{line_number}: {line!r} is no symbol with its count; {_AGAIN}")
        if symbol in line_of and not overwrites:
            there = f"on line {line_of[symbol]}" if line_of[symbol] else "one of fairseq's own symbols"
            raise ConfigError(f"{path}:{line_number}: the symbol {symbol!r} is there already, {there}; {_AGAIN}")
        line_of[symbol] = line_number
    if len(line_of) == len(SPECIALS):
        raise ConfigError(f"{path}: no symbol in it; {_AGAIN}")
    return list(line_of)[len(SPECIALS) :]


def _read_text(path: Union[str, Path]) -> str:
    """Contents of a file of a vocabulary folder. Raises ConfigError naming it."""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {_AGAIN}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error.reason} at byte {error.start + 1}); {_AGAIN}") from error


def load_text_codec(config: Mapping[str, Any], path: Union[str, Path]) -> TextCodec:
    """The codec described by a parsed configuration, which was read from `path`."""
    words, tokenizer = config.get("pre_tokenizer") or {}, config.get("bpe_tokenizer") or {}
    normalizer = TextNormalizer.from_config(config.get("text_normalization"))
    kind = tokenizer.get("bpe")
    if words.get("tokenizer") or kind not in (None, "sentencepiece"):
        from colld_fairseq.data.fairseq_tokenizers import FairseqCodec

        return FairseqCodec(words, tokenizer, normalizer, path)
    if kind is None:
        return TextCodec("char", normalizer)
    model = tokenizer.get("sentencepiece_model")
    if not isinstance(model, str):
        raise ConfigError(f"{path}: bpe_tokenizer names no sentencepiece_model; {_AGAIN}")
    return TextCodec("sentencepiece", normalizer, file_beside(path, model))
