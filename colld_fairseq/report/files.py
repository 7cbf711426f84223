"""Files of an experiment: looked for once, told apart by their first bytes, read with errors that name them."""

import math
import os
from pathlib import Path
from typing import Any, Callable, List, Optional, TypeVar

from colld_fairseq.errors import ColldError
from colld_fairseq.parsing import parse_json

_T = TypeVar("_T")
SIMILARITY = "row_model\trow_layer\tcolumn_model\tcolumn_layer\tcka\t"  # how the table of `colld similarity` begins


class Problems(List[str]):
    """What could not be read, each once; the rest is reported all the same."""

    def add(self, problem: str) -> None:
        if problem not in self:
            self.append(problem)

    def attempt(self, read: Callable[[], _T]) -> Optional[_T]:
        """What `read` returns, or None; then its ColldError is kept."""
        try:
            return read()
        except ColldError as error:
            self.add(str(error))
            return None


def files_below(folder: Path) -> List[Path]:
    """All files in a folder and its folders but hidden ones, in the order of their names."""
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(parent) / name for name in sorted(names)]
    return files


def begins_with(path: Path, *words: str) -> bool:
    """Whether one of these words is among a file's first hundred bytes."""
    try:
        with open(path, "rb") as handle:
            start = handle.read(100).decode("utf-8", errors="replace")
    except OSError:
        return False
    return any(word in start for word in words)


def read_json(path: Path) -> Any:
    """Raises ColldError: not there, or no JSON."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ColldError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ColldError(f"{path}: is not JSON ({error})") from error


def is_figure(value: Any) -> bool:
    """Whether what stands in a file of JSON is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def inside(folder: Path, name: str) -> Path:
    """The path of a file that a folder's plan names. Raises ColldError where it leads out of the folder."""
    path = folder / name
    if Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder)):
        return path
    raise ColldError(f"{folder / 'plan.json'}: names {name!r}, which is outside of {folder}; correct the plan")
