"""The copy of its vocabulary that a checkpoint keeps, so that it can be used where the folder has moved or changed."""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
import yaml
from torch import Tensor

from colld_fairseq.checkpoints.files import read_torch, resolve_file
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.pretrained_vocabulary import (
    CONFIG,
    FILES,
    KEPT,
    PretrainedVocabulary,
    directory_of,
    used_tokens,
)
from colld_fairseq.data.text import (
    FORMER_KEY,
    SPECIALS,
    file_beside,
    has_vocabulary,
    read_vocabulary_config,
    vocabulary_file,
)
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.errors import CheckpointError, ConfigError
from colld_fairseq.files import split_paths

logger = logging.getLogger(__name__)

Copy = Dict[str, Tensor]  # file name -> its bytes, uint8
NAME = "vocabulary"  # of the copy, in the task's state
SYMBOLS, PIECES, CODES = "dict.txt", "sentencepiece.model", "bpe.codes"
TOKENIZER_FILES = {"sentencepiece_model": PIECES, "bpe_codes": CODES}  # option of bpe_tokenizer -> name in the copy
# Of text; a config.yaml that fairseq's scripts made says more, of audio.
_OPTIONS = (
    *("vocab_filename", "pre_tokenizer", "bpe_tokenizer", "text_normalization", FORMER_KEY, "post_process"),
    *("prepend_tgt_lang_tag", "languages"),
)


def copy_of(folder: str) -> Copy:
    """The files of a vocabulary folder, as uint8, under names of their own."""
    path = vocabulary_file(folder)
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else read_vocabulary_config(folder)
    config = {name: config[name] for name in _OPTIONS if name in config}
    files = {SYMBOLS: path.parent / (config.get("vocab_filename") or SYMBOLS)}
    config["vocab_filename"] = SYMBOLS
    tokenizer = config.get("bpe_tokenizer") or {}
    for option, name in TOKENIZER_FILES.items():
        if tokenizer.get(option):
            files[name] = Path(file_beside(path, tokenizer[option]))
            tokenizer[option] = name
    contents = {"config.yaml": yaml.safe_dump(config).encode(), **{n: path.read_bytes() for n, path in files.items()}}
    return {name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in contents.items()}


def languages_of(copy: Copy) -> List[str]:
    """Of the transcripts, as the configuration of a vocabulary in `copy` names them; [] where it does not."""
    config = yaml.safe_load(copy["config.yaml"].numpy().tobytes()) if "config.yaml" in copy else {}
    return [str(language) for language in config.get("languages") or []]


def copy_of_decoder(directory: Path, tokens_from: str = "") -> Copy:
    """The small files of a pretrained decoder's directory: configuration, generation configuration, tokenizer.

    tokens_from: manifests A.tsv,B.tsv by which tokens are kept; "": all.
    """
    contents = {name: (directory / name).read_bytes() for name in FILES if (directory / name).is_file()}
    if tokens_from:
        manifests = [read_manifest(path) for path in split_paths(tokens_from)]
        kept = used_tokens(PretrainedVocabulary(directory), manifests)
        contents[KEPT] = json.dumps({"ids": kept}).encode()
    return {name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in contents.items()}


def open_vocabulary(
    folder: str, evaluated: Optional[str], restored: Optional[str] = None, decoder_from: str = "", tokens_from: str = ""
) -> Tuple[Vocabulary, Copy]:
    """The vocabulary of a task, and a copy of it for its checkpoints.

    A model with a pretrained decoder has that of its checkpoint (`evaluated`, or the one that training goes on from);
    a new one that of `decoder_from`, hf:DIR, cut by `tokens_from` (see :func:`copy_of_decoder`). Any other has the one
    in `folder`, or where there is none, that of its checkpoint.

    Raises ConfigError as Vocabulary does, where `decoder_from` is not the decoder that training goes on with, and where
    the vocabulary in `folder` is not that of the checkpoint.
    """
    checkpoint = evaluated or restored
    copy = _copy_in(checkpoint) if checkpoint else None
    if copy is not None and CONFIG in copy:
        if decoder_from and restored and not evaluated:
            check_same_decoder(copy, decoder_from, restored)
        return _open_copy(copy, checkpoint), copy
    if decoder_from:
        directory = directory_of(decoder_from)
        copy = copy_of_decoder(directory, tokens_from)
        return _open_copy(copy, str(directory)), copy
    if checkpoint is None or (folder and has_vocabulary(folder)):
        vocabulary, mine = Vocabulary(folder), copy_of(folder)
        if copy is not None:
            check_same(copy, mine, folder)
        return vocabulary, mine
    if copy is None:
        read_torch(resolve_file(checkpoint))  # raises where that is what is wrong
        raise ConfigError(f"{checkpoint}: its vocabulary {folder} is not there; say where it is now (--vocab)")
    if folder:
        logger.warning("no vocabulary in %s: the copy in %s is taken", folder, checkpoint)
    return _open_copy(copy, checkpoint), copy


def _open_copy(copy: Copy, name: str) -> Vocabulary:
    """The vocabulary in a copy; `name`: what to call it in messages."""
    with tempfile.TemporaryDirectory() as unpacked:
        for file in (*FILES, "config.yaml", SYMBOLS, PIECES, CODES):
            if file in copy:
                Path(unpacked, file).write_bytes(copy[file].numpy().tobytes())
        if CONFIG in copy:
            return PretrainedVocabulary(unpacked, name)
        vocabulary = Vocabulary(unpacked)
    vocabulary.folder = name
    return vocabulary


def check_same_decoder(copy: Copy, decoder_from: str, checkpoint: str) -> None:
    """ConfigError where `decoder_from` is there, and is not the decoder whose files a checkpoint has."""
    try:
        given = copy_of_decoder(directory_of(decoder_from))
    except CheckpointError:  # the checkpoint has all that is needed
        return
    differ = [name for name in FILES if name != KEPT and not _equal(given.get(name), copy.get(name))]
    if differ:
        raise ConfigError(
            f"--decoder-from {decoder_from}: its {differ[0]} is not that of the decoder in {checkpoint}; leave it out"
            " to go on with that one, or take another --save-dir to begin anew"
        )


def _equal(one: Optional[Tensor], other: Optional[Tensor]) -> bool:
    return one is None and other is None or one is not None and other is not None and torch.equal(one, other)


def _copy_in(checkpoint: str) -> Optional[Copy]:
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return state["task_state"][NAME]
    except Exception:  # noqa: BLE001 - no copy in it, or damaged: then its reader says what is wrong
        return None


def check_same(copy: Copy, other: Copy, folder: str) -> None:
    """ConfigError where the copy in a checkpoint is of another vocabulary than that of `folder`."""
    what = difference(copy, other)
    if what:
        raise ConfigError(
            f"the model was trained with another vocabulary than that in {folder} ({what}): name the right one"
            " (--vocab), or a folder without any to take the checkpoint's copy"
        )


def difference(copy: Copy, other: Copy) -> str:
    """What tells a vocabulary from another first, in words; "" where text becomes the same tokens in both."""
    if (CONFIG in copy) != (CONFIG in other):
        return "that of a pretrained decoder" if CONFIG in copy else "not that of a pretrained decoder"
    ours, theirs = _meaning(copy), _meaning(other)
    for name in sorted({*ours.settings, *theirs.settings}):
        one, another = (vocabulary.settings.get(name) for vocabulary in (ours, theirs))
        if one != another:
            return f"{name} is {one!r}, not {another!r}"
    files = (name for name in {**ours.files, **theirs.files} if ours.files.get(name) != theirs.files.get(name))
    return _other_token(ours.tokens, theirs.tokens) or next((f"another {name}" for name in files), "")


def label_difference(copy: Copy, other: Copy) -> str:
    """The same for two models of which one learns the labels of the other: of pretrained decoders the tokens count, not
    the files, since decoders of several sizes share their tokens."""
    if CONFIG in copy and CONFIG in other:
        return _other_token(*(_open_copy(one, "the copy").dictionary.symbols for one in (copy, other)), first=0)
    return difference(copy, other)


def _other_token(ours: Sequence[str], theirs: Sequence[str], first: int = len(SPECIALS)) -> str:
    """The first token in which two lists differ, in words, or their lengths; "" for none. first: id of the first."""
    if len(ours) != len(theirs):
        return f"{len(ours) + first} tokens, not {len(theirs) + first}"
    pairs = enumerate(zip(ours, theirs), first)
    return next((f"token {index} is {one!r}, not {other!r}" for index, (one, other) in pairs if one != other), "")


class _Meaning(NamedTuple):
    """What decides how text becomes tokens: tokens (but for the special ones), settings, and the files of a pretrained
    decoder, or the model of sentencepiece and the merges of BPE."""

    tokens: List[str]
    settings: Dict[str, Any]
    files: Dict[str, bytes]


def _meaning(copy: Copy) -> _Meaning:
    contents = {name: content.numpy().tobytes() for name, content in copy.items()}
    if CONFIG in contents:
        return _Meaning([], {}, contents)
    config = yaml.safe_load(contents["config.yaml"])
    settings = {name: _chosen(value) for name, value in config.items() if _chosen(value)}
    return _Meaning(tokens_in(copy), settings, {name: contents[name] for name in (PIECES, CODES) if name in contents})


def tokens_in(copy: Copy) -> List[str]:
    """Of a vocabulary that is no pretrained decoder's: all but the special ones, in the order of their ids."""
    lines = copy[SYMBOLS].numpy().tobytes().decode().split("\n")
    return [line.rstrip().removesuffix(" #fairseq:overwrite").rpartition(" ")[0] for line in lines if line.strip()]


def _chosen(value: Any) -> Any:
    """Without what is switched off, which is as good as left out."""
    return {name: part for name, part in value.items() if part} if isinstance(value, dict) else value
