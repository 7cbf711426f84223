"""What a container, or a job of a cluster, may have of a machine's memory: the limits of Linux' control groups."""

import contextlib
from pathlib import Path
from typing import Iterator, NamedTuple


class _Files(NamedTuple):
    """Names of the files of a limit and of what is used; and in memory.stat of what of that caches files, which the
    kernel gives back."""

    limit: str
    used: str
    cached: str


# Controllers, as /proc/self/cgroup names them, of control groups in version 2 and in version 1.
_FILES = {
    "": _Files("memory.max", "memory.current", "inactive_file"),
    "memory": _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_of_limits(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """Bytes that are left of each limit that holds for this process; nothing where there is none, or no Linux."""
    for line in groups.read_text(encoding="utf-8").splitlines() if groups.is_file() else ():
        _, controllers, name = line.split(":", 2)
        for controller in _FILES.keys() & controllers.split(","):
            top = root / controller
            own = top / name.strip("/")
            # The limits of those that it lies in hold as well. A container may see its own group as the top.
            for folder in [own, *(parent for parent in own.parents if parent.is_relative_to(top))]:
                with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
                    yield _free(folder, _FILES[controller])


def _free(folder: Path, files: _Files) -> int:
    limit, used = (int((folder / name).read_text()) for name in (files.limit, files.used))
    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return limit - used + int(statistics.get(files.cached, 0))
