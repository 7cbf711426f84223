"""Weights of a model in graphs of ONNX, whose exporters rename, transpose and fold them.

When a graph is written, each weight is looked up in it by its values, and where it lies is noted; `read` takes those
notes and the graph. What lies in no graph, such as mask embeddings of training, is noted with its values.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from colld_fairseq.checkpoints.onnx_reading import open_graph
from colld_fairseq.errors import CheckpointError

StateDict = Dict[str, Tensor]
Tensors = Mapping[str, np.ndarray]
#: Of a weight: where it lies, {"file", "tensor", "form"}, or its {"values"}; and its {"shape", "dtype"}.
Note = Dict[str, Any]
# How a weight [..., d] lies in its tensor: as it is, with its dimensions in reverse order, or (both parts of weight
# normalization) multiplied out.
PLAIN, REVERSED, DIRECTION, LENGTH = "plain", "reversed", "direction", "length"
PARTS = {"weight_v": DIRECTION, "weight_g": LENGTH}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "int64": torch.int64, "bool": torch.bool}


def tensors_of(path: Path) -> Tensors:
    """Initializers and constants of a graph by name. Raises CheckpointError where it cannot be read, or keeps tensors
    in other files."""
    import onnx

    graph = open_graph(path).graph
    constants = [
        (node.output[0], attribute.t)
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    tensors = [*((tensor.name, tensor) for tensor in graph.initializer), *constants]
    outside = next((name for name, tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL), None)
    if outside is not None:
        raise CheckpointError(f"{path}: its tensor {outside} lies in another file, which is not read")
    return {name: onnx.numpy_helper.to_array(tensor) for name, tensor in tensors}


def note(weights: StateDict, graphs: Mapping[str, Tensors]) -> Dict[str, Note]:
    """Where weights of a model lie in its graphs (file name -> tensors)."""
    index = {
        _digest(array): (file, name) for file, tensors in graphs.items() for name, array in reversed(tensors.items())
    }
    noted = {}
    for name, weight in weights.items():
        location = _located(weight, index) or _folded(name, weights, graphs)
        kind = str(weight.dtype).removeprefix("torch.")
        noted[name] = {**(location or {"values": _encoded(weight)}), "shape": list(weight.shape), "dtype": kind}
    return noted


def _digest(array: np.ndarray) -> Tuple[str, int, bytes]:
    """The same for arrays of the same values in the same order, whatever their shape."""
    return str(array.dtype), array.size, hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


def _located(weight: Tensor, index: Mapping[Tuple, Tuple[str, str]]) -> Optional[Note]:
    array = weight.numpy()
    for form, values in ((PLAIN, array), (REVERSED, array.T)):
        if _digest(values) in index:
            file, tensor = index[_digest(values)]
            return {"file": file, "tensor": tensor, "form": form}
    return None


def _folded(name: str, weights: StateDict, graphs: Mapping[str, Tensors]) -> Optional[Note]:
    """The tensor with length and direction of weight normalization multiplied out."""
    stem, _, part = name.rpartition(".")
    if part not in PARTS or f"{stem}.weight_g" not in weights or f"{stem}.weight_v" not in weights:
        return None
    direction, length = weights[f"{stem}.weight_v"], weights[f"{stem}.weight_g"]
    expected = (direction * (length / _lengths(direction, length.shape))).numpy()
    for file, tensors in graphs.items():
        for tensor, array in tensors.items():
            if array.shape == expected.shape and np.allclose(array, expected, rtol=1e-5, atol=1e-7):
                return {"file": file, "tensor": tensor, "form": PARTS[part]}
    return None


def _lengths(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Euclidean lengths over the dimensions of `weight` that `shape` has not."""
    over = [axis for axis, size in enumerate(shape) if size == 1]
    return weight.square().sum(over, keepdim=True).sqrt()


def _encoded(weight: Tensor) -> str:
    return base64.b64encode(weight.contiguous().numpy().tobytes()).decode()


def read(notes: Mapping[str, Note], graphs: Mapping[str, Tensors]) -> StateDict:
    """The weights that were noted. Raises CheckpointError that names the weight and what is wrong."""
    return dict(_read_each(notes, graphs))


def _read_each(notes: Mapping[str, Note], graphs: Mapping[str, Tensors]) -> Iterator[Tuple[str, Tensor]]:
    for name, given in notes.items():
        try:
            yield name, _read_one(given, graphs)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            where = f"{given.get('file')}: {given.get('tensor')}" if isinstance(given, Mapping) else "its metadata"
            raise CheckpointError(
                f"the weight {name} is not where the export noted it ({where}): the graph was changed since, or"
                " quantized; export the checkpoint again"
            ) from error


def _read_one(given: Note, graphs: Mapping[str, Tensors]) -> Tensor:
    shape, dtype = [int(size) for size in given["shape"]], DTYPES[given["dtype"]]
    if "values" in given:
        content = bytearray(base64.b64decode(given["values"], validate=True))
        return (torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)).reshape(shape)
    array = torch.from_numpy(graphs[given["file"]][given["tensor"]].copy())
    if array.dtype != dtype:
        raise ValueError(f"{array.dtype} instead of {dtype}")
    if given["form"] == REVERSED:
        return array.reshape(shape[::-1]).permute(*range(len(shape))[::-1]).contiguous()
    if given["form"] == LENGTH:
        return _lengths(array, shape).reshape(shape)
    if given["form"] not in (PLAIN, DIRECTION):
        raise ValueError(given["form"])
    return array.reshape(shape)
