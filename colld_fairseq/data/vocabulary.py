"""What `colld vocab` wrote: the dictionary, the tokenization and the language tags of one vocabulary folder."""

from functools import cached_property
from typing import Dict, List, Optional, Sequence, Set, Union

import torch
from fairseq.data import Dictionary

from colld_fairseq.data.text import (
    LANG_TAG_TEMPLATE,
    TextCodec,
    load_text_codec,
    read_symbols,
    read_vocabulary_config,
    vocabulary_file,
)
from colld_fairseq.errors import ConfigError


class TextDictionary(Dictionary):
    """fairseq's dictionary, whose `string` joins tokens to text as its own vocabulary does it, whatever it is told.

    fairseq-generate would score letters or pieces as if they were words if --post-process were forgotten, and one word
    a sentence if it named another tokenization; here it need not be given (`--post-process none` shows the tokens).
    """

    codec: Optional[TextCodec] = None

    def string(self, tensor, bpe_symbol=None, *args, **kwargs) -> str:
        several = torch.is_tensor(tensor) and tensor.dim() == 2  # fairseq comes back for each of them
        if several or self.codec is None or bpe_symbol == "none":
            return super().string(tensor, bpe_symbol, *args, **kwargs)
        return self.codec.decode(super().string(tensor, None, *args, **kwargs))


class Vocabulary:
    """Text to token ids and back. Token 0 (`<s>`) is the CTC blank.

    Raises ConfigError when the folder (or configuration in one) is no vocabulary, or a language has no tag in it.
    """

    tags_in_targets = True
    """Whether the tag of the target language is the first token of a target."""

    def __init__(self, folder: str) -> None:
        config, file = read_vocabulary_config(folder), vocabulary_file(folder)
        if config.get("prepend_bos_and_append_tgt_lang_tag"):
            raise ConfigError(
                f"{file}: prepend_bos_and_append_tgt_lang_tag is not known here; use prepend_tgt_lang_tag"
            )
        self.folder = folder
        self.codec = load_text_codec(config, file)
        path = file.parent / (config.get("vocab_filename") or "dict.txt")
        read_symbols(path)
        self.dictionary = TextDictionary.load(str(path))
        self.dictionary.codec = self.codec
        self.uses_tags = bool(config.get("prepend_tgt_lang_tag", False))

    def encode(self, text: str, append_eos: bool) -> torch.Tensor:
        """int64 [U]; characters or pieces outside the vocabulary become `<unk>`."""
        ids: List[int] = [self.dictionary.index(token) for token in self.codec.encode(text)]
        return torch.tensor(ids + [self.dictionary.eos()] * append_eos, dtype=torch.long)

    def decode(self, ids: torch.Tensor, unknown: str = "<unk>") -> str:
        """The text of token ids, with `unknown` for `<unk>`; other special symbols and language tags are left out."""
        # At once: taken one by one, every token of a GPU's tensor would be waited for.
        return self.codec.decode([symbol for symbol in self.symbols_of(ids.tolist(), unknown) if symbol is not None])

    def symbols_of(self, ids: Sequence[int], unknown: str = "") -> List[Optional[str]]:
        """The symbol of each token, `unknown` for `<unk>`, None for other special symbols and language tags."""
        skipped = self.tag_ids | {self.dictionary.bos(), self.dictionary.pad(), self.dictionary.eos()}
        unk = self.dictionary.unk()
        return [None if i in skipped else unknown if i == unk else self.dictionary[i] for i in ids]

    def word_boundary(self, option: str) -> str:
        """What is in front of a word, for an option that has to know. ConfigError for tokens that mark none."""
        if not self.codec.boundary:
            raise ConfigError(
                f"{option} has to know where words begin, as letters and sentencepiece's pieces say it; the tokens of"
                f" {self.folder} ({self.codec.kind}) do not"
            )
        return self.codec.boundary

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of a hypothesis' tokens, without unknown ones."""
        return self.decode(torch.tensor(tokens, dtype=torch.long), unknown="")

    def tag_id(self, language: str, where: Optional[str] = None) -> int:
        """Token id of `<lang:xx>`; `where` (file and line) goes into the error message."""
        index = self.dictionary.index(LANG_TAG_TEMPLATE.format(language))
        if index not in self.tag_ids:
            prefix = f"{where}: " if where else ""
            raise ConfigError(
                f"{prefix}target language {language!r} has no tag in {self.folder}, which has those of"
                f" {', '.join(self.tags_by_language) or 'none'}; for another one make the vocabulary with"
                " `colld vocab --lang-tags`"
            )
        return index

    def prefix(self, source: str, target: str, where: str = "") -> List[int]:
        """What a decoder is told of the languages spoken and written: the tag of `target`; ConfigError as tag_id's."""
        return [self.tag_id(target, where)]

    def tags(
        self,
        languages: Optional[Sequence[str]],
        forced: str,
        size: int,
        device: Union[str, torch.device],
        sources: Optional[Sequence[str]] = None,
    ) -> Optional[torch.Tensor]:
        """Tags int64 [size] of the target languages, or of `forced` if given; None where the vocabulary has none.

        sources: the languages spoken, which these tags do not tell.
        """
        if not self.uses_tags:
            return None
        languages = [forced] * size if forced else languages
        if languages is None:
            raise ConfigError("the target language is not known: give --tgt-lang")
        return torch.tensor([self.tag_id(language) for language in languages], device=device)

    @cached_property
    def tags_by_language(self) -> Dict[str, int]:
        """The tag of each language that has one."""
        start, end = LANG_TAG_TEMPLATE.split("{}")
        symbols = self.dictionary.symbols
        return {symbols[i][len(start) : len(symbols[i]) - len(end)]: i for i in sorted(self.tag_ids)}

    @cached_property
    def tag_ids(self) -> Set[int]:
        """Of all languages."""
        return {i for i, symbol in enumerate(self.dictionary.symbols) if is_tag(symbol)}


def is_tag(symbol: str) -> bool:
    start, end = LANG_TAG_TEMPLATE.split("{}")
    return symbol.startswith(start) and symbol.endswith(end)
