"""Tokens as fairseq's own tokenizers make them, for vocabularies of its scripts that are no sentencepiece alone."""

import argparse
from pathlib import Path
from typing import Any, Callable, List, Mapping, Union

from fairseq.data import encoders

from colld_fairseq.data.text import PIECE_BOUNDARY, TextCodec, TextNormalizer, file_beside
from colld_fairseq.errors import ConfigError

BPE_FILES = {"subword_nmt": "bpe_codes", "fastbpe": "bpe_codes", "sentencepiece": "sentencepiece_model"}
PRE_TOKENIZERS = ("moses", "space")
CONTINUED = "@@"  # at the end of a token of subword_nmt or fastbpe: the word goes on


class FairseqCodec(TextCodec):
    """`pre_tokenizer` cuts a text into words, `bpe_tokenizer` those into subwords; both as config.yaml has them.

    Raises ConfigError: one that is not known, not installed, or whose file is missing.
    """

    def __init__(
        self,
        pre_tokenizer: Mapping[str, Any],
        bpe_tokenizer: Mapping[str, Any],
        normalizer: TextNormalizer,
        config: Union[str, Path],
    ) -> None:
        name = bpe_tokenizer.get("bpe")
        if name not in (None, *BPE_FILES):
            raise ConfigError(f"{config}: bpe_tokenizer {name!r} is not known; known are {', '.join(BPE_FILES)}")
        words = pre_tokenizer.get("tokenizer")
        if words not in (None, *PRE_TOKENIZERS):
            raise ConfigError(f"{config}: pre_tokenizer {words!r} is not known; known are {', '.join(PRE_TOKENIZERS)}")
        self.kind = self.post_process = name or "word"
        self.boundary = PIECE_BOUNDARY if name == "sentencepiece" else ""  # the others mark no beginnings
        self.normalizer = normalizer
        bpe = dict(bpe_tokenizer)
        if name is not None:
            file = bpe.get(BPE_FILES[name])
            if not isinstance(file, str) or not Path(file_beside(config, file)).is_file():
                raise ConfigError(f"{config}: bpe_tokenizer {name} needs {BPE_FILES[name]}, and {file!r} is not there")
            bpe[BPE_FILES[name]] = file_beside(config, file)
        self._words = _build(encoders.build_tokenizer, pre_tokenizer, config)
        self._subwords = _build(encoders.build_bpe, bpe, config)

    def clean(self, text: str) -> str:
        return self.normalizer(text)

    def encode(self, text: str) -> List[str]:
        text = self.normalizer(text)
        for step in (self._words, self._subwords):
            text = text if step is None else step.encode(text)
        return text.split()

    def decode(self, tokens: Union[str, List[str]]) -> str:
        text = tokens if isinstance(tokens, str) else " ".join(tokens)
        for step in (self._subwords, self._words):
            text = text if step is None else step.decode(text)
        return text.strip()

    def begins_word(self, symbol: str, before: str) -> bool:
        if not self.boundary:
            return not before.endswith(CONTINUED)
        return super().begins_word(symbol, before)


def _build(build: Callable, options: Mapping[str, Any], config: Union[str, Path]) -> Any:
    try:
        return build(argparse.Namespace(**options))
    except ImportError as error:
        raise ConfigError(f"{config}: its tokenizer is not installed: {error}") from error
