"""tokens.txt, from which clients make text of what a graph emits."""

from typing import List, Set

from colld_fairseq.data.text import LETTER_BOUNDARY, PIECE_BOUNDARY, TextCodec
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.errors import ConfigError

BLANK = "<blk>"
BYTE_BPE = 0xC6  # a client takes a vocabulary whose highest byte is this one for bytes in disguise


def client_symbols(vocabulary: Vocabulary) -> List[str]:
    """Symbols by id, as clients name them: `<blk>` for `<s>`, and a word boundary of letters as one of pieces.

    Raises ConfigError for a vocabulary whose text no client would put together again.
    """
    codec, dictionary = vocabulary.codec, vocabulary.dictionary
    if type(codec) is not TextCodec:
        raise ConfigError(
            f"{vocabulary.folder}: clients put letters and sentencepiece's pieces together, no other tokens; train with"
            " a vocabulary of `colld vocab`"
        )
    symbols = list(dictionary.symbols)
    symbols[dictionary.bos()] = BLANK
    if codec.boundary == LETTER_BOUNDARY:
        symbols = [PIECE_BOUNDARY if symbol == LETTER_BOUNDARY else symbol for symbol in symbols]
    _check(symbols, vocabulary.folder)
    return symbols


def _check(symbols: List[str], folder: str) -> None:
    wrong = next((s for i, s in enumerate(symbols) if not s or s.split() != [s] or s in symbols[:i]), None)
    if wrong is not None:
        raise ConfigError(f"{folder}: the symbol {wrong!r} is empty, has a space in it or is there twice for clients")
    if max("".join(symbols).encode()) == BYTE_BPE:
        raise ConfigError(f"{folder}: clients would take these symbols for byte-level pieces, and write other text")


def tokens_file(symbols: List[str]) -> str:
    """`symbol id`, a line each."""
    return "".join(f"{symbol} {index}\n" for index, symbol in enumerate(symbols))


def never_emitted(vocabulary: Vocabulary) -> Set[int]:
    """Ids that no hypothesis holds: fairseq's special symbols but the blank, and language tags."""
    dictionary = vocabulary.dictionary
    return {dictionary.pad(), dictionary.eos(), dictionary.unk(), *vocabulary.tag_ids} - {dictionary.bos()}
