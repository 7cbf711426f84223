"""Tensors in files that may be larger than memory: their shapes at once, their values a few at a time."""

import contextlib
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple

import torch
from safetensors import safe_open
from torch import Tensor

from colld_fairseq.checkpoints.files import read_torch
from colld_fairseq.errors import CheckpointError


class TensorFiles:
    """The state dict in a file of `torch.save`, or in shards of it that are cut along the first axis.

    Files are mapped into memory while something is read from them and no longer: what was read of a mapped file counts
    as memory of the process as long as the mapping lasts.

    Attributes:
        paths: the files, in order.
        shapes: name -> the complete tensor on the meta device, which has shape and dtype alone.
        others: what the first file holds beside its state dict.

    Raises CheckpointError: a file cannot be read, holds what is no tensor, or does not go with the others.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        states, others = zip(*map(_open, self.paths))
        self.others: Dict[str, Any] = others[0]
        for path, state in zip(self.paths, states):
            alone = sorted(state.keys() - states[0].keys())
            if alone:
                first = self.paths[0].name
                raise CheckpointError(f"{path}: {alone[0]} is not in {first}; are these shards of one file?")
        self.shapes = {name: self._complete(name, [s[name] for s in states if name in s]) for name in states[0]}

    def _complete(self, name: str, parts: List[Tensor]) -> Tensor:
        first = parts[0]
        if any(part.shape[1:] != first.shape[1:] or part.dtype != first.dtype for part in parts):
            shapes = ", ".join(str(list(part.shape)) for part in parts)
            raise CheckpointError(f"{self.paths[0].parent}: the shards of {name} do not go together: {shapes}")
        shape = (sum(len(part) for part in parts), *first.shape[1:]) if first.dim() else ()
        return torch.empty(shape, dtype=first.dtype, device="meta")

    def read(self, names: Sequence[str]) -> Dict[str, Tensor]:
        """These tensors, in memory of their own."""
        values = {name: torch.empty_like(self.shapes[name], device="cpu") for name in names}
        self.fill(values)
        return values

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """Copies the tensors of these names, each into one of as many values, in its shape and precision."""
        rows = dict.fromkeys(targets, 0)
        for path in self.paths:
            state, _ = _open(path)
            for name in targets.keys() & state.keys():
                part, target = state[name], targets[name].view(self.shapes[name].shape)
                if part.dim():
                    target = target[rows[name] : rows[name] + len(part)]
                    rows[name] += len(part)
                target.copy_(part)


class SplitFiles:
    """The tensors of several files, each in one of them: as transformers writes models, in safetensors or by
    `torch.save`, in one file or in shards.

    Files are mapped as those of `TensorFiles`; what is in two has the value of the last.

    Attributes:
        shapes: name -> the tensor on the meta device, which has shape and dtype alone.

    Raises CheckpointError that names the file that cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.shapes: Dict[str, Tensor] = {}
        self._file: Dict[str, Path] = {}
        self._unmapped: Dict[Path, Dict[str, Tensor]] = {}  # of torch before 1.6, which are read as a whole
        for path in paths:
            shapes = self._shapes_in(path)
            self.shapes.update(shapes)
            self._file.update(dict.fromkeys(shapes, path))

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """See `TensorFiles.fill`."""
        for path in dict.fromkeys(self._file[name] for name in targets):
            with self._opened(path) as tensor:
                for name, target in targets.items():
                    if self._file[name] == path:
                        target.copy_(tensor(name).reshape(target.shape))

    def _shapes_in(self, path: Path) -> Dict[str, Tensor]:
        if path.suffix != ".safetensors":
            return {name: value.to("meta") for name, value in self._state(path).items()}
        with _open_safetensors(path) as file:
            parts = {name: file.get_slice(name) for name in file.keys()}
            return {
                name: torch.empty(part.get_shape(), dtype=DTYPES[part.get_dtype()], device="meta")
                for name, part in parts.items()
            }

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Iterator[Callable[[str], Tensor]]:
        """What gives a tensor of a file as long as that is open."""
        if path.suffix != ".safetensors":
            yield self._state(path).__getitem__
            return
        with _open_safetensors(path) as file:
            yield file.get_tensor

    def _state(self, path: Path) -> Dict[str, Tensor]:
        """What `torch.save` wrote."""
        if path in self._unmapped:
            return self._unmapped[path]
        state = {name: value for name, value in read_torch(path).items() if isinstance(value, Tensor)}
        if not zipfile.is_zipfile(path):
            self._unmapped[path] = state
        return state


#: Of safetensors -> of torch.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[Any]:
    """The file, as long as something is read from it."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except Exception as error:  # of several kinds, and what the header says may be of any
        raise CheckpointError(f"{path}: cannot be read as weights ({error}); copy it again") from error


def _open(path: Path) -> Tuple[Dict[str, Tensor], Dict[str, Any]]:
    """State dict and the rest of a file: the state dict is what it calls "model", or all of it."""
    content = read_torch(path)
    state, others = content, {}
    if isinstance(content.get("model"), dict):
        state = content["model"]
        others = {key: value for key, value in content.items() if key != "model"}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name} is a {type(value).__name__}, not a tensor; is it a file of weights?")
    if not state:
        raise CheckpointError(f"{path}: holds no weights")
    return state, others
