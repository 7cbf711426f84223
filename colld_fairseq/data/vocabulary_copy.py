"""The copy of its vocabulary that a checkpoint keeps, so that it can be used where the folder has moved or changed."""

import logging
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch
import yaml
from torch import Tensor

from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.errors import ConfigError

logger = logging.getLogger(__name__)

Copy = Dict[str, Tensor]  # file name -> its bytes, uint8
NAME = "vocabulary"  # of the copy, in the task's state
SYMBOLS, PIECES = "dict.txt", "sentencepiece.model"


def copy_of(folder: str) -> Copy:
    """The files of a vocabulary folder, as uint8, under names of their own."""
    config = yaml.safe_load(Path(folder, "config.yaml").read_text(encoding="utf-8"))
    files = {SYMBOLS: Path(folder, config.get("vocab_filename") or SYMBOLS)}
    config["vocab_filename"] = SYMBOLS
    tokenizer = config.get("bpe_tokenizer") or {}
    if tokenizer.get("sentencepiece_model"):
        files[PIECES] = Path(folder, tokenizer["sentencepiece_model"])
        tokenizer["sentencepiece_model"] = PIECES
    contents = {"config.yaml": yaml.safe_dump(config).encode(), **{n: path.read_bytes() for n, path in files.items()}}
    return {name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in contents.items()}


def open_vocabulary(folder: str, checkpoint: Optional[str]) -> Tuple[Vocabulary, Copy]:
    """The vocabulary in a folder and a copy of it; where there is none, from the copy in a checkpoint, if there is one.

    Raises ConfigError as Vocabulary does.
    """
    if checkpoint is None or os.path.isfile(os.path.join(folder, "config.yaml")):
        return Vocabulary(folder), copy_of(folder)
    copy = _copy_in(checkpoint)
    if copy is None:
        raise ConfigError(f"{checkpoint}: its vocabulary {folder} is not there; say where it is now (--vocab)")
    logger.warning("no vocabulary in %s: the copy in %s is taken", folder, checkpoint)
    with tempfile.TemporaryDirectory() as unpacked:
        for name in ("config.yaml", SYMBOLS, PIECES):
            if name in copy:
                Path(unpacked, name).write_bytes(copy[name].numpy().tobytes())
        vocabulary = Vocabulary(unpacked)
    vocabulary.folder = checkpoint
    return vocabulary, copy


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
        raise ConfigError(
            f"the model was trained with another vocabulary (of {len(there)} tokens) than that in {folder} (of"
            f" {len(here)}): name the right one (--vocab), or a folder without any to take the checkpoint's copy"
        )


def _meaning(copy: Copy) -> Tuple[List[bytes], Dict[str, Any], bytes]:
    """What decides how text becomes tokens: the tokens, settings, and the model of sentencepiece."""
    contents = {name: content.numpy().tobytes() for name, content in copy.items()}
    config = yaml.safe_load(contents["config.yaml"])
    settings = {name: _chosen(value) for name, value in config.items() if _chosen(value)}
    return [line.split()[0] for line in contents[SYMBOLS].splitlines() if line], settings, contents.get(PIECES, b"")


def _chosen(value: Any) -> Any:
    """Without what is switched off, which is as good as left out."""
    return {name: part for name, part in value.items() if part} if isinstance(value, dict) else value
