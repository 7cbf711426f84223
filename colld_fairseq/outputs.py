"""Where results go: checked before the work begins, never what the work reads, and one run at a time."""

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import Iterable, Iterator, Union

from colld_fairseq.errors import ConfigError

StrPath = Union[str, "os.PathLike[str]"]


def check_output(path: StrPath, option: str, inputs: Iterable[StrPath] = ()) -> None:
    """That a file can be written there and is none of the `inputs`, under whatever name or link. Missing folders are
    made. Raises ConfigError, naming the option, the path and the remedy."""
    path = Path(path)
    refuse_inputs(path, option, inputs)
    if path.is_dir():
        raise ConfigError(f"{option} {path}: is a folder; give the name of a file in it")
    if not path.exists() or path.is_file():  # else a device or pipe, which is written to as it is
        check_folder(path.parent, option, path)
    if path.exists() and not os.access(path, os.W_OK):
        raise ConfigError(f"{option} {path}: is there and may not be written; change its permissions or give another")


def check_folder(folder: StrPath, option: str, path: StrPath = "") -> None:
    """That files can be written into a folder, which is made if it is missing; `path`: as it was given, for messages.
    Raises ConfigError, naming the option, the path and the remedy."""
    named = f"{option} {path or folder}"
    probe = os.path.join(folder, f".{os.getpid()}.{socket.gethostname()}.tmp")
    try:
        os.makedirs(folder, exist_ok=True)
        with open(probe, "wb"):
            pass  # the only test that tells for every file system whether it can be done
        os.unlink(probe)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(f"{named}: {_file_in(folder)} is a file, not a folder; give another path") from error
    except OSError as error:
        raise ConfigError(f"{named}: cannot be written ({error.strerror}); give a path that can") from error


def refuse_inputs(path: StrPath, option: str, inputs: Iterable[StrPath]) -> None:
    """ConfigError if `path`, followed through links, is one of the files that are read."""
    if not os.path.isfile(path):
        return
    status = os.stat(path)
    for other in inputs:
        if os.path.exists(other) and os.path.samestat(status, os.stat(other)):
            alias = "" if os.fspath(path) == os.fspath(other) else f", the same file as {other},"
            raise ConfigError(f"{option} {path}{alias} is an input, which would be overwritten; give another name")


def _file_in(folder: StrPath) -> str:
    """What of a folder's path is a file."""
    path = Path(folder).absolute()
    return str(next((part for part in (*reversed(path.parents), path) if part.exists() and not part.is_dir()), path))


@contextlib.contextmanager
def only_run(path: StrPath, option: str = "--out") -> Iterator[None]:
    """Keep other runs from writing to `path` meanwhile: ConfigError where another one does, on this machine or another.
    The lock is the kernel's, on a file `.NAME.lock` beside `path`, so that a run that was killed keeps nobody out."""
    path = Path(path)
    lock = path.with_name(f".{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _locked(lock) as owner:
        if owner is not None:
            raise ConfigError(f"{option} {path}: another run writes there ({owner}); wait for it or give another path")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[Union[str, None]]:
    """Holds the lock; gives None, or who else has it."""
    while True:
        with open(lock, "a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    handle.seek(0)
                    yield handle.read().strip() or "unknown"
                    return
                # A file system without locks: two runs are then kept apart by nobody.
            try:
                current = os.fstat(handle.fileno()).st_ino == os.stat(lock).st_ino
            except FileNotFoundError:
                current = False
            if current:  # else the run that had it has just removed it
                handle.truncate(0)
                handle.write(f"process {os.getpid()} on {socket.gethostname()}")
                handle.flush()
                yield None
                return
