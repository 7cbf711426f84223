"""Atomic writing: a file is there in full or not at all."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import IO, Any, Iterator, List, Union


@contextlib.contextmanager
def errors_name(path: Union[str, "os.PathLike[str]"]) -> Iterator[None]:
    """Name this path in an OSError without one, as of writing to an open file (disk full); torch may wrap it."""
    try:
        yield
    except Exception as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) and cause.filename is None:
            cause.filename = os.fspath(path)
        raise


@contextlib.contextmanager
def written_atomically(path: Union[str, "os.PathLike[str]"], mode: str = "wb", **how: Any) -> Iterator[IO]:
    """A file to write to, under a temporary name beside `path`, which it takes at the end: a run that is killed leaves
    no truncated file.

    Missing folders are made. Raises OSError as `open` does; nothing then remains under the temporary name. A
    device or pipe (`/dev/stdout`) is written to as it is.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        with errors_name(path), open(path, mode, **how) as handle:
            yield handle
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id: processes of other machines that share the folder may have the same one.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with errors_name(path), open(temporary, mode, **how) as handle:
            yield handle
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Union[str, Path], content: bytes) -> None:
    """Write `content` by `written_atomically`."""
    with written_atomically(path) as handle:
        handle.write(content)


def split_paths(text: str, separator: str = ",") -> List[str]:
    """The paths in `A,B` (or, with `separator=":"`, in `A:B`), `~` expanded.

    A path may itself contain the separator: what exists is not split (the longest that exists is taken), nor is a name
    below an existing folder, so that an error about a missing file shows its whole path.
    """
    parts, paths = text.split(separator), []
    while parts:
        joined = [os.path.expanduser(separator.join(parts[:count])) for count in range(1, len(parts) + 1)]
        existing = [count for count, path in enumerate(joined, start=1) if os.path.exists(path)]
        below = [count for count, path in enumerate(joined, start=1) if count > 1 and _is_in_folder(path, separator)]
        taken = existing[-1] if existing else below[0] if below else 1
        paths.append(joined[taken - 1])
        parts = parts[taken:]
    return paths


def _is_in_folder(path: str, separator: str) -> bool:
    folder = os.path.dirname(path)
    return separator in folder and os.path.isdir(folder)


def printable(path: Union[str, Path]) -> str:
    r"""A path for messages: bytes of a name that are no UTF-8 as `\udce9`, which can be written anywhere."""
    return str(path).encode("utf-8", "backslashreplace").decode()
