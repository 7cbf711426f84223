"""Text by lines, from files and standard input: always UTF-8, whatever the locale."""

import sys
from typing import Iterator

from colld_fairseq.errors import ColldError

STANDARD_INPUT = "-"


def text_lines(path: str) -> Iterator[str]:
    """Lines of a file (`-`: standard input) without their ends; only "\\n" ends a line, as U+2028 may be text.

    Raises ColldError naming file and line for what cannot be read or is not UTF-8.
    """
    name = "standard input" if path == STANDARD_INPUT else path
    try:
        if path == STANDARD_INPUT:
            if sys.stdin is None:
                raise ColldError("standard input (-) is closed; give a file")
            yield from _decoded(sys.stdin.buffer, name)
        else:
            with open(path, "rb") as file:
                yield from _decoded(file, name)
    except OSError as error:
        raise ColldError(f"{name}: cannot be read ({error.strerror}); give a file of text in UTF-8") from error


def _decoded(file, name: str) -> Iterator[str]:
    for line_number, line in enumerate(file, start=1):
        try:
            yield line.decode("utf-8-sig" if line_number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            reason = f"byte {error.start + 1} is not UTF-8 ({error.reason})"
            raise ColldError(f"{name}:{line_number}: {reason}; convert it to UTF-8") from error
