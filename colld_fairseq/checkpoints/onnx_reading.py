"""Graphs of ONNX, opened: the graph itself, without weights that lie in files of their own."""

import importlib.util
from pathlib import Path
from typing import Dict

from colld_fairseq.errors import CheckpointError, ConfigError

INSTALL = 'pip install "colld_fairseq[export]"'


def check_installed(*names: str, purpose: str = "the export") -> None:
    """Raises ConfigError with the line that installs what is missing of the packages."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{purpose} needs {', '.join(missing)}, not installed here: {INSTALL}")


def open_graph(path: Path):
    """An `onnx.ModelProto`. Raises CheckpointError where the file is none."""
    import onnx

    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # of protobuf, of several kinds
        raise CheckpointError(f"{path}: is no graph of ONNX ({error})") from error


def read_metadata(path: Path) -> Dict[str, str]:
    """Keys and values in a file. Raises CheckpointError where it is no graph."""
    return metadata_of(open_graph(path))


def metadata_of(graph) -> Dict[str, str]:
    """Keys and values in an `onnx.ModelProto`."""
    return {item.key: item.value for item in graph.metadata_props}
