"""Text as the model sees it: normalisation, and the two tokenisations (characters, sentencepiece).

The vocabulary (`colld vocab`), the datasets and the scorer all go through this file, so a transcript is the
same string everywhere. What was chosen when the vocabulary was made is stored in its ``config.yaml`` and read
back by :func:`load_text_codec`.
"""

import re
import unicodedata
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Union

from colld_fairseq.errors import ConfigError

LETTER_BOUNDARY = "|"  # what fairseq's ``--post-process letter`` turns into a space
PIECE_BOUNDARY = "\u2581"  # what ``--post-process sentencepiece`` turns into a space
LANG_TAG_TEMPLATE = "<lang:{}>"  # fairseq's speech_to_text uses the same

# Typographic apostrophes are one letter for the ear; they are unified when punctuation is removed.
_APOSTROPHES = "'\u2019\u02bc\u2018\uff07"
# Never spoken and invisible: byte-order mark, zero-width space, soft hyphen, bidirectional controls. The
# joiners U+200C and U+200D stay: they change how Persian and Indic words are spelt.
_INVISIBLE = dict.fromkeys(
    [0xFEFF, 0x200B, 0x00AD, 0x2060, 0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)
_WHITESPACE = re.compile(r"\s+")


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


def normalise_text(text: str, lowercase: bool = False, remove_punctuation: bool = False) -> str:
    """The text in NFC with single spaces, without invisible control characters; optionally more.

    Args:
        lowercase: Unicode lower-casing (not case-folding: German "ß" stays).
        remove_punctuation: characters of category P become spaces ("Weißenburg-Gunzenhausen" is two words,
            "1,000" is "1 000"); an apostrophe between letters is kept, written "'". Symbols (category S: "$",
            "+") are kept.
    """
    text = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
    if lowercase:
        # lower() may decompose ("İ" becomes "i" and a combining dot), hence NFC again.
        text = unicodedata.normalize("NFC", text.lower())
    if remove_punctuation:
        text = _remove_punctuation(text)
    return _WHITESPACE.sub(" ", text).strip()


@dataclass(frozen=True)
class TextNormaliser:
    """:func:`normalise_text` with its options, stored under ``text_normalisation`` in config.yaml."""

    lowercase: bool = False
    remove_punctuation: bool = False

    def __call__(self, text: str) -> str:
        return normalise_text(text, self.lowercase, self.remove_punctuation)

    def to_config(self) -> Dict[str, bool]:
        return asdict(self)

    @classmethod
    def from_config(cls, config: Optional[Mapping[str, Any]]) -> "TextNormaliser":
        """From the mapping under ``text_normalisation``; ConfigError on an option that does not exist."""
        config = dict(config or {})
        unknown = sorted(set(config) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigError(
                f"text_normalisation in config.yaml has unknown options {unknown}; known: "
                f"{[f.name for f in fields(cls)]}"
            )
        return cls(**{key: bool(value) for key, value in config.items()})


class TextCodec:
    """Text to tokens and back, for one vocabulary.

    ``kind`` is "char" (code points after NFC, words separated by "|") or "sentencepiece". The character that
    marks a word boundary ("|" or "▁") cannot also be a letter: where it occurs literally in a text, it is
    read as a space.
    """

    def __init__(
        self,
        kind: str,
        normaliser: TextNormaliser = TextNormaliser(),
        sentencepiece_model: Union[str, Path, bytes, None] = None,
    ):
        if kind not in ("char", "sentencepiece"):
            raise ConfigError(f"unknown kind of vocabulary {kind!r}; use 'char' or 'sentencepiece'")
        self.kind = kind
        self.normaliser = normaliser
        self.boundary = LETTER_BOUNDARY if kind == "char" else PIECE_BOUNDARY
        self.post_process = "letter" if kind == "char" else "sentencepiece"
        self._processor = None
        if kind == "sentencepiece":
            import sentencepiece

            if isinstance(sentencepiece_model, bytes):
                self._processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model)
            elif sentencepiece_model is not None and Path(sentencepiece_model).is_file():
                self._processor = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
            else:
                raise ConfigError(f"sentencepiece model not found: {sentencepiece_model}; make one with `colld vocab`")

    def clean(self, text: str) -> str:
        """The text that ``decode(encode(text))`` gives back: what hypotheses should be compared with."""
        return _WHITESPACE.sub(" ", self.normaliser(text).replace(self.boundary, " ")).strip()

    def encode(self, text: str) -> List[str]:
        """Tokens of the text; an empty list for an empty text."""
        text = self.clean(text)
        if self.kind == "char":
            return [self.boundary if character == " " else character for character in text]
        return self._processor.encode(text, out_type=str)

    def decode(self, tokens: Union[str, List[str]]) -> str:
        """Text of tokens (a list, or one string of them), as fairseq's post-processing makes it."""
        if not isinstance(tokens, str):
            tokens = " ".join(tokens)
        return tokens.replace(" ", "").replace(self.boundary, " ").strip()


def load_text_codec(config: Mapping[str, Any], root: Union[str, Path]) -> TextCodec:
    """The codec described by a parsed ``config.yaml``, whose file names are relative to ``root``."""
    tokenizer = config.get("bpe_tokenizer") or {}
    normaliser = TextNormaliser.from_config(config.get("text_normalisation"))
    if tokenizer.get("bpe") == "sentencepiece":
        return TextCodec("sentencepiece", normaliser, Path(root) / tokenizer["sentencepiece_model"])
    if tokenizer.get("bpe"):
        raise ConfigError(
            f"bpe_tokenizer {tokenizer['bpe']!r} in config.yaml is not supported; make the vocabulary "
            "with `colld vocab --kind char` or `--kind sentencepiece`"
        )
    return TextCodec("char", normaliser)
