"""Finds and reads the files of a teacher directory in Hugging Face layout, and fingerprints them."""

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Dict, List, Sequence

import torch
from torch import Tensor, nn

from colld_fairseq.errors import TeacherError

WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")


def resolve_directory(name: str) -> Path:
    """The directory `name`, or its snapshot in the local Hugging Face cache; never downloads."""
    directory = Path(name).expanduser()
    if directory.is_dir():
        return directory
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(name, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            pass
    raise TeacherError(
        f"teacher hf:{name}: no such directory, and not in the local Hugging Face cache. Nothing is ever "
        f"downloaded; fetch it beforehand, e.g. `hf download {name} --local-dir DIR`, and name it hf:DIR"
    )


def read_config(directory: Path) -> Dict:
    """config.json as a dictionary."""
    return read_json(directory / "config.json")


def read_json(path: Path) -> Dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TeacherError(f"{path}: not readable as JSON ({error}); the directory is incomplete") from error
    if not isinstance(content, dict):
        raise TeacherError(f"{path}: expected a JSON object")
    return content


def weight_files(directory: Path) -> List[Path]:
    """The weight files, safetensors before torch, single file before shards."""
    for name in WEIGHT_NAMES:
        index = directory / f"{name}.index.json"
        if (directory / name).is_file():
            return [directory / name]
        if index.is_file():
            shards = sorted(set(read_json(index).get("weight_map", {}).values()))
            files = [directory / shard for shard in shards]
            missing = [str(file) for file in files if not file.is_file()]
            if missing or not files:
                raise TeacherError(f"{index}: shards are missing: {', '.join(missing) or 'none is listed'}")
            return files
    raise TeacherError(
        f"teacher directory {directory}: holds none of {', '.join(WEIGHT_NAMES)} nor an .index.json of them"
    )


def read_state(directory: Path) -> Dict[str, Tensor]:
    """All tensors of the directory by key; safetensors are memory-mapped, so unused ones cost nothing."""
    state: Dict[str, Tensor] = {}
    for file in weight_files(directory):
        try:
            if file.suffix == ".safetensors":
                from safetensors.torch import load_file

                state.update(load_file(file))
            else:
                state.update(torch.load(file, map_location="cpu", weights_only=True))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise TeacherError(f"{file}: cannot be read as weights ({reason}); copy it again") from error
    return state


def load_into(module: nn.Module, state: Dict[str, Tensor], prefixes: Sequence[str], where) -> None:
    """Fills every parameter and buffer of `module` from `state`, whose keys carry one of `prefixes`.

    Surplus keys (heads, a decoder, blocks that were not built) are ignored.
    Raises TeacherError naming keys that are missing or of another shape, and `where` they were looked for.
    """
    expected = module.state_dict()
    names = {key: _spellings(key) for key in expected}
    prefix = max(prefixes, key=lambda p: sum(p + name in state for key in expected for name in names[key]))
    chosen, missing, misshaped = {}, [], []
    for key, tensor in expected.items():
        found = next((prefix + name for name in names[key] if prefix + name in state), None)
        if found is None:
            missing.append(prefix + key)
        elif state[found].shape != tensor.shape:
            misshaped.append(f"{found} is {list(state[found].shape)}, expected {list(tensor.shape)}")
        else:
            chosen[key] = state[found]
    if missing or misshaped:
        parts = [f"{len(missing)} encoder keys missing ({_some(missing)})"] if missing else []
        parts += [f"{len(misshaped)} of another shape ({_some(misshaped)})"] if misshaped else []
        raise TeacherError(
            f"teacher weights in {where}: {'; '.join(parts)}. Take the complete checkpoint with its own configuration"
        )
    module.load_state_dict(chosen)


def _spellings(key: str) -> Sequence[str]:
    """The key itself and its names under torch's older weight normalisation."""
    old = key.replace("parametrizations.weight.original0", "weight_g")
    old = old.replace("parametrizations.weight.original1", "weight_v")
    return (key,) if old == key else (key, old)


def _some(items: Sequence[str], limit: int = 5) -> str:
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")


def teacher_files(directory: Path) -> List[Path]:
    """Everything in a Hugging Face directory that decides what the teacher computes."""
    preprocessor = directory / "preprocessor_config.json"
    files = [directory / "config.json", *weight_files(directory)]
    return files + [preprocessor] if preprocessor.is_file() else files


def hash_of(spec: str) -> str:
    """The `content_hash` that the teacher `spec` has once it is loaded, without loading it."""
    scheme, _, name = spec.partition(":")
    if scheme == "hf":
        return content_hash(teacher_files(resolve_directory(name)))
    path = Path(name).expanduser()
    if not path.is_file():
        raise TeacherError(f"teacher {spec}: no such file")
    return content_hash([path])


def content_hash(files: Sequence[Path]) -> str:
    """sha256 over the bytes of the files in the order given; an unchanged file is hashed once a process."""
    total = hashlib.sha256()
    for file in files:
        status = file.stat()
        total.update(_hash_file(str(file.resolve()), status.st_size, status.st_mtime_ns))
    return total.hexdigest()


@lru_cache(maxsize=None)
def _hash_file(path: str, size: int, modified_ns: int) -> bytes:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
