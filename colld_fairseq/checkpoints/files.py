"""Files of checkpoints: found, read without running anything in them, and fingerprinted."""

import hashlib
import json
import re
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Dict, List, Sequence, Union

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from colld_fairseq.checkpoints.hash_cache import sha256_of
from colld_fairseq.compat import absolute_path
from colld_fairseq.errors import CheckpointError, ConfigError
from colld_fairseq.parsing import parse_json

WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")


def resolve_directory(name: str) -> Path:
    """The directory `name`, or its snapshot in the local Hugging Face cache; never downloads."""
    directory = Path(absolute_path(name))
    if directory.is_dir():
        return directory
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(name, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            pass
    raise CheckpointError(
        f"{name}: no such directory, and not in the local Hugging Face cache. Nothing is ever downloaded; fetch it "
        f"beforehand, e.g. `hf download {name} --local-dir DIR`, and name it hf:DIR"
    )


def resolve_file(name: str) -> Path:
    """The file `name`, relative to the folder that the user started in."""
    path = Path(absolute_path(name))
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return path


def read_json(path: Path) -> Dict[str, Any]:
    """A JSON object."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); the directory is incomplete") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def weight_files(directory: Path) -> List[Path]:
    """The weight files, safetensors before torch, single file before shards."""
    for name in WEIGHT_NAMES:
        index = directory / f"{name}.index.json"
        if (directory / name).is_file():
            return [directory / name]
        if index.is_file():
            files = [directory / shard for shard in _shards(index)]
            missing = [str(file) for file in files if not file.is_file()]
            if missing or not files:
                raise CheckpointError(f"{index}: shards are missing: {', '.join(missing) or 'none is listed'}")
            return files
    raise CheckpointError(f"{directory}: holds none of {', '.join(WEIGHT_NAMES)} nor an .index.json of them")


def _shards(index: Path) -> List[str]:
    """File names of an .index.json. CheckpointError for what is no name of a file beside it."""
    weight_map = read_json(index).get("weight_map", {})
    shards = list(weight_map.values()) if isinstance(weight_map, dict) else [weight_map]
    wrong = [name for name in shards if not isinstance(name, str) or Path(name).name != name or "\0" in name]
    if wrong:
        raise CheckpointError(f"{index}: names {wrong[0]!r}, which is no file beside it; copy the directory again")
    return sorted(set(shards))


def read_state(directory: Path) -> Dict[str, Tensor]:
    """All tensors of the directory by key; they are mapped into memory, so unused ones cost nothing."""
    state: Dict[str, Tensor] = {}
    for file in weight_files(directory):
        if file.suffix != ".safetensors":
            state.update(read_torch(file))
            continue
        from safetensors.torch import load_file

        try:
            state.update(load_file(file))
        except Exception as error:
            raise CheckpointError(f"{file}: cannot be read as weights ({error}); copy it again") from error
    return state


def read_torch(path: Path) -> Dict[str, Any]:
    """What `torch.save` wrote, with weights_only: nothing in the file is run. Tensors are mapped into memory.

    Numbers and arrays of numpy and containers of OmegaConf are accepted (see `compat.register_safe_globals`); any other
    class is named in the error, with the remedy.
    """
    try:
        # files from before torch 1.6 are no zip archives, and cannot be mapped
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        raise CheckpointError(f"{path}: {_why_unreadable(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint")
    return content


def _why_unreadable(error: Exception) -> str:
    """One line: torch's own message advises to switch its safety off."""
    text = str(error).partition("WeightsUnpickler error:")[2].strip() or str(error)
    unsafe = re.search(r"GLOBAL (\S+)|got <class '(.*)'>|function (<.*>)", text)
    if unsafe:
        name = next(filter(None, unsafe.groups()))
        return (
            f"holds an object of {name}; reading it may run code, so it is not read. If you trust the file, load it"
            " in the program that wrote it and save it again with nothing but tensors, numbers, strings, lists and"
            " dictionaries"
        )
    first_line = text.strip().partition("\n")[0]
    return f"cannot be read as weights ({type(error).__name__}: {first_line}); is it whole? Copy it again"


def load_tokenizer(directory: Union[str, Path], name: str) -> Any:
    """transformers' tokenizer of a directory. ConfigError where there is none, or it cannot be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False, split_special_tokens=True
        )
    except Exception as error:  # of every kind, by what is missing
        first_line = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{name}: no tokenizer that can be read ({first_line}); copy the complete directory, with"
            " tokenizer.json or the files that this model has in its place"
        ) from error


def plain(value: Any) -> Any:
    """Namespaces, OmegaConf's containers and numpy's numbers, at any depth, as plain values of Python."""
    if OmegaConf.is_config(value):
        try:
            value = OmegaConf.to_container(value, resolve=True, enum_to_str=True)
        except OmegaConfBaseException:  # refers to what is not in the file
            value = OmegaConf.to_container(value, resolve=False, enum_to_str=True)
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def content_hash(files: Sequence[Path]) -> str:
    """sha256 over the hashes of the files in the order given; see `hash_cache` for when a file is read."""
    total = hashlib.sha256()
    for file in files:
        total.update(sha256_of(file))
    return total.hexdigest()
