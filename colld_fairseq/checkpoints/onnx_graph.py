"""Encoders as graphs of ONNX, with a description beside them: teachers alone, no student starts from one.

`encoder.onnx` is described by `encoder.yaml`:

    frame_rate_hz: 50
    width: 512
    layers: {6: /encoder/layers.5/Add_1_output_0, 12: encoded}
    input: {kind: waveform, normalization: utterance}

What may be written there are the fields of `GraphDescription`.
"""

import math
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from colld_fairseq.checkpoints.files import resolve_file
from colld_fairseq.checkpoints.onnx_reading import check_installed, open_graph
from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.errors import CheckpointError, ConfigError
from colld_fairseq.field_types import check_types
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.parsing import parse_yaml

AXES = ("time_last", "time_first")


@dataclass(frozen=True)
class GraphDescription:
    """What a graph does not say of itself."""

    frame_rate_hz: float
    """Frames per second."""
    width: int
    """D, of every layer named."""
    layers: Dict[int, str]
    """Layer number -> name of the tensor, an output of the graph or an inner one. Numbers are the user's: only their
    order matters, and the highest is taken for the encoder's depth."""
    kernel_samples: Optional[int] = None
    """N samples give (N - kernel_samples) // hop + 1 frames, where hop = 16000 / frame_rate_hz: 400 for HuBERT's
    convolutions, 1 where every begun hop gives a frame; default: hop, every complete one."""
    input: Dict[str, Any] = field(default_factory=lambda: {"kind": "waveform", "normalization": "none"})
    """Fields of `modules.input_config.InputConfig`: a waveform, filterbanks or Whisper's log-mels."""
    source: str = ""
    """Name of the input that takes it, [1, N] or [1, T, bins]; default: the graph's first."""
    lengths: str = ""
    """Name of an input that takes its length, int64 [1]; default: the graph has none."""
    axes: str = "time_first"
    """"time_first": layers are [1, T, D]; "time_last": [1, D, T]."""

    def __post_init__(self) -> None:
        numbered = isinstance(self.layers, Mapping) and self.layers
        if not numbered or not all(isinstance(key, int) and key >= 0 for key in self.layers):
            raise ConfigError("layers must name at least one tensor by its number, such as {12: encoded}")
        check_types(self)
        given = {"frame_rate_hz": self.frame_rate_hz, "width": self.width, "kernel_samples": self.kernel_samples or 1}
        for name, value in given.items():
            if not value > 0:
                raise ConfigError(f"{name} is {value!r}, and must be positive")
        if SAMPLE_RATE % self.frame_rate_hz or self.frame_rate_hz < 1:
            raise ConfigError(f"frame_rate_hz is {self.frame_rate_hz}: a frame must be a whole number of samples")
        if self.axes not in AXES:
            raise ConfigError(f"axes is {self.axes!r}, choose one of {', '.join(AXES)}")
        self.input_config  # noqa: B018 (a check)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return round(SAMPLE_RATE / self.frame_rate_hz)

    @cached_property
    def input_config(self) -> InputConfig:
        return InputConfig.from_dict(dict(self.input))


def describe(name: str) -> GraphDescription:
    """The description beside a graph. Raises ConfigError that names the file and the field."""
    path = description_file(resolve_file(name))
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}). A graph of ONNX is described beside it: frame_rate_hz, width,"
            " layers, input; see docs/own_teacher.md"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is not YAML ({error})") from error
    known = {one.name: one for one in fields(GraphDescription)}
    if not isinstance(content, dict) or set(content) - set(known):
        unknown = sorted(map(str, set(content) - set(known))) if isinstance(content, dict) else [type(content).__name__]
        raise ConfigError(f"{path}: {', '.join(unknown)} is no field; there are {', '.join(known)}")
    try:
        return GraphDescription(**content)
    except (TypeError, ConfigError) as error:
        reason = str(error).replace("GraphDescription.__init__() ", "")
        raise ConfigError(f"{path}: {reason}") from error


def description_file(graph: Path) -> Path:
    return graph.with_suffix(".yaml")


def files(name: str) -> List[Path]:
    """The graph, its description, and the files that its weights lie in."""
    check_installed("onnx", "onnxruntime", purpose=f"onnx:{name}")
    path = resolve_file(name)
    return [path, description_file(path), *(path.parent / each for each in weight_files(path, open_graph(path)))]


def size_of(name: str) -> Tuple[int, int]:
    """How many weights a graph has, and the bytes of it and of the files that they lie in."""
    path = resolve_file(name)
    model = open_graph(path)
    stored = [path, *(path.parent / each for each in weight_files(path, model))]
    weights = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
    return weights, sum(each.stat().st_size for each in stored)


def weight_files(path: Path, model) -> List[str]:
    """Names of the files beside `path` that weights of its graph lie in. Raises CheckpointError for others."""
    entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    names = sorted({entry.value for entry in entries if entry.key == "location"})
    outside = [each for each in names if Path(each).is_absolute() or ".." in Path(each).parts]
    if outside:
        raise CheckpointError(f"{path}: names weights outside its folder ({outside[0]}); they are not read")
    return names
