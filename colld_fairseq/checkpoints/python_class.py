"""Teachers of the user's own: classes found by module and name."""

import importlib
import sys
from pathlib import Path
from typing import Any, Dict, List

from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.errors import ConfigError


def find(name: str) -> Any:
    """The class "package.module:Class". Raises ConfigError where there is none."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigError(f"python:{name}: write python:package.module:Class")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ConfigError(
            f"python:{name}: {error}; modules are looked for where Python does, and in the folders of PYTHONPATH"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"python:{name}: {module} has no {attribute}") from error


def shape_of(name: str) -> Dict[str, Any]:
    """What the class says: num_layers, width, frame_rate_hz, kernel_samples and hop_samples. Raises ConfigError naming
    what it does not say."""
    teacher = find(name)
    lacks = [each for each in ("num_layers", "width", "frame_rate_hz", "features") if not hasattr(teacher, each)]
    if lacks:
        raise ConfigError(f"python:{name}: the class has no {lacks[0]}; see docs/own_teacher.md")
    hop = round(SAMPLE_RATE / teacher.frame_rate_hz)
    return dict(
        num_layers=teacher.num_layers,
        width=teacher.width,
        frame_rate_hz=float(teacher.frame_rate_hz),
        kernel_samples=getattr(teacher, "kernel_samples", hop),
        hop_samples=hop,
    )


def files(name: str) -> List[Path]:
    """The module's source, and what the class says in `files`: of its weights, say."""
    teacher = find(name)
    source = Path(sys.modules[teacher.__module__].__file__)
    paths = [source, *(Path(path).expanduser() for path in getattr(teacher, "files", ()))]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ConfigError(f"python:{name}: its files name {missing[0]}, which is not there")
    return paths
