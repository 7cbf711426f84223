"""The command and the operating system: text that a stream cannot show, and errors told in one line."""

import errno
import os
import re
import sys
from typing import Optional

REMEDIES = {
    errno.ENOSPC: "make room, then give the same command again",
    errno.EDQUOT: "make room within your quota, then give the same command again",
    errno.EFBIG: "files of this size are not allowed there (ulimit -f, or the file system's limit)",
    errno.EACCES: "change its permissions, or give another path",
    errno.EPERM: "change its permissions, or give another path",
    errno.EROFS: "give a path on another file system",
    errno.EISDIR: "give the name of a file",
    errno.ENOTDIR: "a part of that path is a file, not a folder; give another path",
    errno.EEXIST: "something else has that name; give another path",
    errno.ENAMETOOLONG: "give a shorter name",
}


def print_any_text() -> None:
    """Let standard output and error take any text, whatever the locale: `\\uXXXX` for what they cannot show. Into a
    file or pipe text goes in UTF-8, as manifests are, unless PYTHONIOENCODING asks for something else."""
    for stream in (sys.stdout, sys.stderr):
        if not hasattr(stream, "reconfigure"):
            continue  # of a test, or of a program that calls us
        as_asked = stream.isatty() or "PYTHONIOENCODING" in os.environ
        stream.reconfigure(encoding=None if as_asked else "utf-8", errors="backslashreplace")


def failed(name: str, message: str) -> int:
    """Tell what went wrong; the exit code."""
    try:
        print(f"{name}: error: {message}", file=sys.stderr)
        sys.stdout.flush()
    except OSError:  # the output itself cannot be written: what is left of it must not be tried again at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 2


def operating_system_error(error: BaseException) -> Optional[OSError]:
    """The error of the operating system that `error` is or stands for: torch and safetensors wrap it in their own."""
    wrapped = re.search(r"\(os error (\d+)\)", str(error))
    if wrapped:
        return OSError(int(wrapped[1]), os.strerror(int(wrapped[1])))
    while isinstance(error, RuntimeError) and error.__context__ is not None:
        error = error.__context__
    return error if isinstance(error, OSError) else None


def describe(error: OSError) -> str:
    """The path, what is wrong with it and what to do."""
    paths = [os.fsdecode(path) for path in (error.filename, error.filename2) if isinstance(path, (str, bytes))]
    reason, remedy = error.strerror or str(error) or type(error).__name__, REMEDIES.get(error.errno)
    return ": ".join([*[" -> ".join(paths)][: len(paths)], f"{reason}; {remedy}" if remedy else reason])
