"""The copy of its vocabulary that a checkpoint keeps, so that it can be used where the folder has moved or changed."""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

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
from colld_fairseq.data.text import FORMER_KEY, file_beside, has_vocabulary, read_vocabulary_config, vocabulary_file
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

    Raises ConfigError as Vocabulary does, and where `decoder_from` is not the decoder that training goes on with.
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
    if checkpoint is None or has_vocabulary(folder):
        return Vocabulary(folder), copy_of(folder)
    if copy is None:
        read_torch(resolve_file(checkpoint))  # raises where that is what is wrong
        raise ConfigError(f"{checkpoint}: its vocabulary {folder} is not there; say where it is now (--vocab)")
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
    (there, *what), (here, *mine) = _meaning(copy), _meaning(other)
    if (there, what) != (here, mine):
        counted = f" (of {len(there)} tokens, and {len(here)}, special symbols apart)"
        sizes = "" if CONFIG in copy or CONFIG in other else counted
        raise ConfigError(
            f"the model was trained with another vocabulary than that in {folder}{sizes}: name the right one (--vocab),"
            " or a folder without any to take the checkpoint's copy"
        )


def _meaning(copy: Copy) -> Tuple[List[bytes], Dict[str, Any], bytes, bytes]:
    """What decides how text becomes tokens: the tokens, settings, the model of sentencepiece and the merges of BPE."""
    contents = {name: content.numpy().tobytes() for name, content in copy.items()}
    if CONFIG in contents:
        return [*contents.values()], contents, b"", b""
    config = yaml.safe_load(contents["config.yaml"])
    settings = {name: _chosen(value) for name, value in config.items() if _chosen(value)}
    return (
        [line.split()[0] for line in contents[SYMBOLS].splitlines() if line],
        settings,
        *(contents.get(name, b"") for name in (PIECES, CODES)),
    )


def _chosen(value: Any) -> Any:
    """Without what is switched off, which is as good as left out."""
    return {name: part for name, part in value.items() if part} if isinstance(value, dict) else value
