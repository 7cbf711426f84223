"""Files that are there whole or not at all."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import IO, Iterator, Union


@contextlib.contextmanager
def written_whole(path: Union[str, Path], mode: str = "wb", **how: str) -> Iterator[IO]:
    """A file to write to, under a temporary name beside `path`, which it takes at the end: a run that is killed leaves
    no truncated file.

    Missing folders are made. Raises OSError as :func:`open` does; nothing then remains under the temporary name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id: processes of other machines that share the folder may have the same one.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, mode, **how) as handle:
            yield handle
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Union[str, Path], content: bytes) -> None:
    """Write `content` by :func:`written_whole`."""
    with written_whole(path) as handle:
        handle.write(content)
