"""Files that are there whole or not at all."""

import os
import secrets
from pathlib import Path
from typing import Union


def write_whole(path: Union[str, Path], content: bytes) -> None:
    """Write under a temporary name beside `path`, then rename: a run that is killed leaves no truncated file.

    Missing folders are made. Raises OSError as :func:`open` does; nothing then remains under the temporary name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id: processes of other machines that share the folder may have the same one.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
