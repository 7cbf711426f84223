"""sha256 of files. That of a large one is kept in the user's cache folder for as long as the file is the same.

The hash is over all bytes: two files never share one. A kept hash counts only while the file system says what it said
when the bytes were read: device, inode, size, time of the last write, and time of the last change of any kind. The last
of these nobody can set, so a file that was written to with its time put back is hashed anew, as is a copy. Files that
changed within the last seconds are not kept at all: a write in the same tick of the file system's clock would not show.
"""

import contextlib
import hashlib
import json
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, Optional

from colld_fairseq.files import write_atomically
from colld_fairseq.parsing import parse_json

LEAST_BYTES = 64 * 1024**2  # below, hashing takes less than a tenth of a second
SETTLED_NS = 10 * 10**9  # clocks of file systems tick in milliseconds, those of servers may be some seconds off


class Identity(NamedTuple):
    """What changes whenever a file does."""

    device: int
    inode: int
    size: int
    written_ns: int
    changed_ns: int

    @classmethod
    def of(cls, file: BinaryIO) -> "Identity":
        status = os.fstat(file.fileno())
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_settled(self) -> bool:
        """Whether the last change lies so far back that another one would show."""
        return time.time_ns() - max(self.written_ns, self.changed_ns) > SETTLED_NS


def sha256_of(path: Path) -> bytes:
    """Of all bytes of a file; read once a process, and once only where it is large and stays as it is."""
    with open(path, "rb") as file:
        return _hash(str(path.resolve()), Identity.of(file))


@lru_cache(maxsize=None)
def _hash(path: str, identity: Identity) -> bytes:
    large = identity.size >= LEAST_BYTES
    kept = _kept(path, identity) if large else None
    if kept is not None:
        return kept
    with open(path, "rb") as file:
        before, settled = Identity.of(file), identity.is_settled()
        digest = hashlib.file_digest(file, "sha256").digest()
        if large and settled and before == identity == Identity.of(file):
            _keep(path, identity, digest)
    return digest


def entry_of(path: str) -> Path:
    """Where the hash of a file is kept. OSError for a user without a home folder, as some containers have them."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(caches):
        raise FileNotFoundError("no home folder")
    return Path(caches) / "colld_fairseq" / "sha256" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"


def _kept(path: str, identity: Identity) -> Optional[bytes]:
    """None where there is no entry, or one of another file."""
    try:
        entry = parse_json(entry_of(path).read_text())
        same = entry["path"] == path and entry["identity"] == list(identity)
        digest = bytes.fromhex(entry["sha256"]) if same else b""
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return digest if len(digest) == hashlib.sha256().digest_size else None


def _keep(path: str, identity: Identity, digest: bytes) -> None:
    """Write the entry, if that is possible here."""
    content = {"path": path, "identity": list(identity), "sha256": digest.hex()}
    with contextlib.suppress(OSError):
        write_atomically(entry_of(path), json.dumps(content).encode())
