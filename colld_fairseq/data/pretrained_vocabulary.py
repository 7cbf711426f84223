"""The tokenizer of a pretrained decoder as a vocabulary, with the ids of the pretrained model.

A directory in transformers' layout, or the small files of one in a checkpoint: configuration, generation configuration
and tokenizer. Nothing in it is run, and nothing is downloaded.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Set, Union

import torch
from torch import Tensor

from colld_fairseq.checkpoints.files import load_tokenizer, read_json, resolve_directory
from colld_fairseq.data.decoder_prefix import prefix_of
from colld_fairseq.data.manifest import Manifest
from colld_fairseq.data.seams import SPACELESS
from colld_fairseq.data.text import PIECE_BOUNDARY, TextNormalizer
from colld_fairseq.data.vocabulary import TextDictionary, Vocabulary
from colld_fairseq.errors import ConfigError

FAMILIES = ("whisper", "m2m_100", "mbart")
CONFIG, GENERATION, KEPT = "config.json", "generation_config.json", "kept_tokens.json"
NAMELESS = "<unused:"  # how tokens begin that have an id and no name
FILES = (
    *(CONFIG, GENERATION, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "normalizer.json", "sentencepiece.bpe.model", "sentencepiece.model", KEPT),
)
# Scripts without spaces between words: Whisper begins the first word of any other text with one.
_NO_SPACES = re.compile(f"[{SPACELESS}]")


class PretrainedVocabulary(Vocabulary):
    """Text to token ids and back, by the tokenizer in `directory`.

    Ids are those of the pretrained model, unless `kept_tokens.json` lists the ones that were kept: then id i is the
    i-th of them. What the decoder is given first (`prefix`) is in no target.

    Raises ConfigError where the directory has no tokenizer of FAMILIES, CheckpointError where its JSON is damaged.
    """

    tags_in_targets = False

    def __init__(self, directory: Union[str, Path], name: str = "") -> None:
        """name: of the directory, for messages, where that is a temporary one."""
        self.folder = name or str(directory)
        self.config, self.generation = decoder_config(directory, self.folder), optional_json(directory, GENERATION)
        self.family: str = self.config["model_type"]
        self.kept: Optional[List[int]] = optional_json(directory, KEPT).get("ids")
        """Ids in the pretrained model of the tokens that are here; None: all."""
        tokenizer = load_tokenizer(directory, self.folder)
        pretrained = tokens_by_id(tokenizer, self.config["vocab_size"])
        here = range(len(pretrained)) if self.kept is None else self.kept
        self._index = {index: position for position, index in enumerate(here)}  # of the pretrained model -> here
        ids = {pretrained[index]: index for index in here}
        try:
            self._prefix = prefix_of(self.family, ids, self.config, self.generation)
        except ConfigError as error:
            raise ConfigError(f"{self.folder}: {error}") from error
        symbols = special_symbols(self.family, tokenizer)
        self.dictionary = PretrainedDictionary(
            list(ids), {name: self._index[ids[token]] for name, token in symbols.items() if token in ids}
        )
        self.uses_tags = bool(self._prefix.languages)
        self._special_tokens = {self._index[ids[token]] for token in tokenizer.all_special_tokens if token in ids}
        no_text = self.tag_ids | {self.dictionary.eos()}
        known = {token for token, index in self.dictionary.indices.items() if index not in no_text}
        self.codec = self.dictionary.codec = PretrainedCodec(tokenizer, self.family, known)

    @property
    def languages(self) -> Dict[str, int]:
        """Languages that can be written, as the family names them -> token; none in English-only models."""
        return {language: self._index[index] for language, index in self._prefix.languages.items()}

    @property
    def padding_index(self) -> int:
        """Of the model's own padding, which decides positions in M2M-100 and NLLB; Whisper's is the end of text."""
        return self.dictionary.eos() if self.family == "whisper" else self.dictionary.pad()

    @property
    def prefix_size(self) -> int:
        """Tokens that a decoder is given for each utterance, the first of which is its start."""
        return self._prefix.size

    def prefix(self, source: str, target: str, where: str = "") -> List[int]:
        """What the decoder is given for an utterance spoken in `source` ("": in the target language), to be written in
        `target`; ConfigError, naming `where`, for a pair of languages that it cannot write."""
        try:
            return [self._index[index] for index in self._prefix(source, target)]
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}" if where else str(error)) from error

    def tag_id(self, language: str, where: Optional[str] = None) -> int:
        """Token id of a target language."""
        return self.prefix("", language, where or "")[1]

    def tags(
        self,
        languages: Optional[Sequence[str]],
        forced: str,
        size: int,
        device: Union[str, torch.device],
        sources: Optional[Sequence[str]] = None,
    ) -> Tensor:
        """Prefixes int64 [size, P] for target languages (`forced`, if given) and spoken ones (None: the same)."""
        languages = [forced] * size if forced else languages
        if languages is None:
            if self.uses_tags:
                raise ConfigError("the target language is not known: give --tgt-lang")
            languages = ["en"] * size
        pairs = zip(sources or [""] * size, languages)
        return torch.tensor([self.prefix(source, target) for source, target in pairs], device=device)

    @cached_property
    def language_ids(self) -> Set[int]:
        return {self._index[index] for index in self._prefix.languages.values()}

    @cached_property
    def special_ids(self) -> Set[int]:
        """Of tokens that are neither text nor language nor timestamp."""
        behind: Set[int] = set()
        if self.family == "whisper":
            behind = {here for index, here in self._index.items() if self._prefix.start <= index <= self._prefix.tail}
        return (self._special_tokens | behind) - self.language_ids

    @cached_property
    def tag_ids(self) -> Set[int]:
        """Of all that is no text, but for the end and `<unk>`: languages, tasks, timestamps, ids without a token."""
        nameless = {here for here, token in enumerate(self.dictionary.symbols) if token.startswith(NAMELESS)}
        timestamps = {here for index, here in self._index.items() if self._prefix.is_timestamp(index)}
        written = {self.dictionary.eos()} | ({self.dictionary.unk()} if self.family != "whisper" else set())
        return (self.special_ids | self.language_ids | timestamps | nameless) - written

    @cached_property
    def never_written(self) -> Set[int]:
        """Tokens that decoding leaves out: of the generation configuration (`suppress_tokens`), and all `tag_ids`."""
        return self._suppressed("suppress_tokens") | self.tag_ids

    @cached_property
    def never_first(self) -> Set[int]:
        """Tokens that no hypothesis begins with (`begin_suppress_tokens`)."""
        return self._suppressed("begin_suppress_tokens")

    def _suppressed(self, name: str) -> Set[int]:
        values = self.generation.get(name, self.config.get(name)) or []
        return {self._index[value] for value in values if value in self._index}


class PretrainedDictionary(TextDictionary):
    """Tokens of a pretrained model as fairseq's dictionary; special: index of "bos", "pad", "eos" and "unk"."""

    def __init__(self, tokens: List[str], special: Dict[str, int]) -> None:
        super().__init__(add_special_symbols=False)
        self.symbols, self.count = tokens, [1] * len(tokens)
        self.indices = {token: index for index, token in enumerate(tokens)}
        self.bos_index, self.pad_index = special["bos"], special["pad"]
        self.eos_index, self.unk_index = special["eos"], special["unk"]
        self.nspecial = 0


class PretrainedCodec:
    """Text to tokens and back, as `data.text.TextCodec`; text is normalized only to NFC and single spaces.

    known: the tokens that text is written with.
    """

    def __init__(self, tokenizer: Any, family: str, known: Set[str]) -> None:
        self.tokenizer, self.known = tokenizer, known
        self.normalizer = TextNormalizer()
        self.of_bytes = family == "whisper"
        self.post_process = "bytes" if self.of_bytes else "sentencepiece"

    def clean(self, text: str) -> str:
        """The text that `decode(encode(text))` gives back where every character is known."""
        return self.normalizer(text)

    def encode(self, text: str) -> List[str]:
        """Tokens of the text. What is not known becomes its characters, or bytes: tokens that were not kept, and
        "</s>", which in a text is no end."""
        text = self.clean(text)
        if not text:
            return []
        if self.of_bytes and not _NO_SPACES.match(text):
            text = f" {text}"
        pieces = self.tokenizer.tokenize(text, add_special_tokens=False)
        return [part for piece in pieces for part in ([piece] if piece in self.known else piece)]

    def decode(self, tokens: Union[str, List[str]]) -> str:
        """The text of tokens (a list, or one string of them), as one line."""
        tokens = [token for token in (tokens.split(" ") if isinstance(tokens, str) else tokens) if token]
        if self.of_bytes:
            text = self.tokenizer.convert_tokens_to_string(tokens) if tokens else ""
        else:
            text = "".join(tokens).replace(PIECE_BOUNDARY, " ")
        return " ".join(text.split())


def used_tokens(vocabulary: PretrainedVocabulary, manifests: Sequence[Manifest]) -> List[int]:
    """Ids, in order, of the tokens that targets of manifests are written with: theirs, all single characters (or bytes)
    for other text, those of their languages and tasks, and the special ones.

    Raises ConfigError for languages that the decoder cannot write.
    """
    indices = vocabulary.dictionary.indices
    used = {index for token, index in indices.items() if len(token.replace(PIECE_BOUNDARY, "")) <= 1}
    for manifest in manifests:
        for text in manifest.table.column("tgt_text").unique().to_pylist():
            used.update(indices[token] for token in vocabulary.codec.encode(text) if token in indices)
        (sources, source_names), (targets, target_names) = manifest.codes("src_lang"), manifest.codes("tgt_lang")
        for source, target in sorted(set(zip(sources.tolist(), targets.tolist()))):
            used.update(vocabulary.prefix(source_names[source], target_names[target], manifest.path))
    return sorted(used | vocabulary.special_ids)


def directory_of(spec: str) -> Path:
    """The directory that hf:DIR names, from the folder that the user started in. ConfigError, CheckpointError."""
    scheme, _, name = spec.partition(":")
    if scheme != "hf" or not name:
        raise ConfigError(f"--decoder-from {spec!r}: write hf:DIR, a directory in the layout of transformers")
    return resolve_directory(name)


def tokens_by_id(tokenizer: Any, size: int) -> List[str]:
    """The tokens of ids 0 to size - 1; ids without one, as models have them at the end, get a name of their own."""
    # Not `get_vocab()`, in which M2M-100's languages are missing.
    tokens = tokenizer.convert_ids_to_tokens(list(range(size)))
    unknown = (None, tokenizer.unk_token)
    return [
        token if token not in unknown or index == tokenizer.unk_token_id else f"{NAMELESS}{index}>"
        for index, token in enumerate(tokens)
    ]


def special_symbols(family: str, tokenizer: Any) -> Dict[str, str]:
    """Tokens of fairseq's four symbols.

    Whisper pads with the end of text, which fairseq would then never write: a token that nobody writes takes that part,
    and the one that starts a transcript the part of the CTC blank.
    """
    if family == "whisper":
        nobody_writes = "<|startofprev|>"
        return {"bos": "<|startoftranscript|>", "pad": nobody_writes, "unk": nobody_writes, "eos": tokenizer.eos_token}
    names = {name: getattr(tokenizer, f"{name}_token") for name in ("pad", "eos", "unk")}
    return {**names, "bos": tokenizer.bos_token or tokenizer.cls_token}  # mBART-50 has the latter only


def decoder_config(directory: Union[str, Path], name: str) -> Dict[str, Any]:
    """config.json of a model whose decoder can be used; else ConfigError."""
    config = read_json(Path(directory, CONFIG))
    if config.get("model_type") not in FAMILIES:
        raise ConfigError(
            f"{name}: a decoder of {config.get('model_type')!r} is not known; take Whisper, M2M-100, NLLB or mBART-50"
        )
    return config


def optional_json(directory: Union[str, Path], name: str) -> Dict[str, Any]:
    path = Path(directory, name)
    return read_json(path) if path.is_file() else {}
