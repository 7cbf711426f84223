"""The files of a teacher cache, and how they are written.

    header.json       which teacher, layers, kind, rate and width, how numbers are stored, and of which manifest
    part-00000.bin    numbers of about ten minutes of audio, one utterance after another (see cache_storage.py)
    part-00000.json   its ids, frames and samples, the utterances that gave none, and what storing them has lost
    index.json        every part's .json in one file, and the loss over all; written by whoever finds them complete

Every file is written under a temporary name and renamed, the index of a part after its numbers: a part that has an
index is whole. Any number of processes, on any number of machines, may each write some of the parts.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.field_types import check_types
from colld_fairseq.files import write_atomically
from colld_fairseq.parsing import parse_json
from colld_fairseq.teachers.cache_storage import STORAGES, Indexes, Piece, Storage, StorageLoss

PART_SECONDS = 600.0  # of audio in a part; what a stopped run has to do again at most


@dataclass(frozen=True)
class CacheHeader:
    """What a cache holds. `manifest` are the paths it was made from and `rows` a digest of their rows."""

    teacher: str
    content_hash: str
    layers: Tuple[int, ...]
    kind: str
    frame_rate_hz: float
    width: int
    manifest: str
    rows: str
    num_parts: int
    dtype: str = "float16"  # of what is stored, one of STORAGES
    teacher_dtype: str = "float32"
    part_seconds: float = PART_SECONDS
    tail_seconds: float = 0.0  # of silence behind each utterance that gave features too
    least_seconds: float = 0.0  # that an utterance with its silence has
    codebooks: str = ""  # content hash of those whose indexes these are; the width is then their number

    @property
    def command(self) -> str:
        """The command that makes or completes this cache, up to its folder."""
        layers = ",".join(map(str, self.layers))
        if self.codebooks:
            return (
                f"colld codebooks --index-manifest {self.manifest} --teacher {self.teacher} --layer {layers} "
                f"--kind {self.kind} --out CODEBOOKS.safetensors --indexes"
            )
        return (
            f"colld features --manifest {self.manifest} --teacher {self.teacher} --layers {layers} "
            f"--kind {self.kind} --dtype {self.teacher_dtype} --storage {self.dtype} "
            f"{f'--tail-seconds {self.tail_seconds:g} ' if self.tail_seconds else ''}"
            f"{f'--least-seconds {self.least_seconds:g} ' if self.least_seconds else ''}"
            f"--part-seconds {self.part_seconds:g} --out"
        )

    @property
    def storage(self) -> Storage:
        return Indexes() if self.codebooks else STORAGES[self.dtype]

    def layer_bytes(self, frames: int) -> int:
        """Size of one layer of an utterance."""
        return sum(map(self.piece_bytes, self.storage.pieces(frames)))

    def piece_bytes(self, piece: Piece) -> int:
        return piece.rows * self.width * np.dtype(piece.dtype).itemsize

    def utterance_bytes(self, frames: int) -> int:
        return len(self.layers) * self.layer_bytes(frames)

    def save(self, directory: Path, option: str = "--out") -> None:
        """Writes header.json; where there is one already it has to say the same. option: that names the directory."""
        path = directory / "header.json"
        if path.is_file():
            # Hash and digest tell more than the paths do.
            compared = [name for name in asdict(self) if name not in ("teacher", "manifest")]
            check_equal(self, CacheHeader.load(directory), compared, f"{directory} holds a cache", option)
            return
        write_atomically(path, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def load(cls, directory: Path) -> "CacheHeader":
        try:
            content = parse_json((directory / "header.json").read_text())
            header = cls(**{**content, "layers": tuple(content["layers"])})
            check_types(header)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TeacherError(
                f"{directory}: no teacher cache (header.json: {error}); make one with `colld features`"
            ) from error
        if header.dtype not in STORAGES:
            raise TeacherError(f"{directory}: stored as {header.dtype!r}, not one of {', '.join(STORAGES)}")
        return header


def check_equal(wanted: Any, there: Any, names: Iterable[str], what: str, option: str = "--out") -> None:
    """Raises ConfigError naming the first of these attributes that differs in what is there already."""
    for name in names:
        value, other = getattr(wanted, name), getattr(there, name)
        if value != other:
            raise ConfigError(f"{what} with another {name} ({other}, not {value}); give another {option} or delete it")


@dataclass
class PartIndex:
    """What a part holds: ids, frames and samples of its utterances, in order, and {id: reason} of those that gave none.

    loss: sums of a StorageLoss. Caches of earlier versions have no samples and no loss.
    """

    ids: List[str] = field(default_factory=list)
    frames: List[int] = field(default_factory=list)
    bad: Dict[str, str] = field(default_factory=dict)
    samples: List[int] = field(default_factory=list)
    loss: List[List[float]] = field(default_factory=list)


def part_paths(directory: Path, part_index: int) -> Tuple[Path, Path]:
    """The files of one part: numbers, index."""
    return directory / f"part-{part_index:05d}.bin", directory / f"part-{part_index:05d}.json"


def finished_part(directory: Path, part_index: int, header: CacheHeader) -> Optional[PartIndex]:
    """The index of a part that is whole, by its own .json, or None."""
    return whole_part(directory, part_index, _content(part_paths(directory, part_index)[1]), header)


def whole_part(directory: Path, part_index: int, content: Any, header: CacheHeader) -> Optional[PartIndex]:
    """The index with this content, where the numbers of the part are there, as many as it says; else None."""
    path = part_paths(directory, part_index)[0]
    size = path.stat().st_size if path.is_file() else -1
    try:
        index = PartIndex(**content)
        fits = len(index.ids) == len(index.frames) and size == sum(map(header.utterance_bytes, index.frames))
    except (ValueError, TypeError, AttributeError):  # damaged: as good as not there
        return None
    return index if fits else None


def _content(path: Path) -> Any:
    """Of a JSON file; None where it is missing or damaged."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_index(directory: Path, header: CacheHeader, parts: Sequence[PartIndex]) -> Dict[str, Dict[str, float]]:
    """index.json of a complete cache; returns what storing it has lost, {layer: numbers of StorageLoss}."""
    loss = StorageLoss.none(len(header.layers))
    for part in parts:
        if part.loss:
            loss.merge(StorageLoss(part.loss))
    lost = loss.of_layers(header.layers)
    content = {"loss": lost, "parts": [asdict(part) for part in parts]}
    write_atomically(directory / "index.json", json.dumps(content).encode())
    return lost


def remove_index(directory: Path) -> None:
    """Before a part is written anew."""
    (directory / "index.json").unlink(missing_ok=True)


def read_parts(directory: Path, header: CacheHeader) -> List[PartIndex]:
    """The indexes of all parts of a complete cache. Raises TeacherError naming what is missing, and the remedy."""
    contents = _contents_of_index(directory, header.num_parts)
    parts: List[PartIndex] = []
    for part_index in range(header.num_parts):
        if contents is None:
            part = finished_part(directory, part_index, header)
        else:
            part = whole_part(directory, part_index, contents[part_index], header)
        if part is None:
            raise TeacherError(
                f"teacher cache {directory} is not complete: part-{part_index:05d} of {header.num_parts} parts is"
                f" missing or cut short; finish it with: {header.command} {directory}"
            )
        parts.append(part)
    return parts


def _contents_of_index(directory: Path, num_parts: int) -> Optional[List[Any]]:
    """What index.json says of each part; None where it does not, because its writer was stopped just before it or was
    of an earlier version, or it is damaged."""
    content = _content(directory / "index.json")
    contents = content.get("parts") if isinstance(content, dict) else None
    return contents if isinstance(contents, list) and len(contents) == num_parts else None


def plan_parts(rows: np.ndarray, n_samples: np.ndarray, seconds: Optional[float] = None) -> List[np.ndarray]:
    """Rows of each part: consecutive ones of about `seconds` (PART_SECONDS), whatever was done before."""
    sizes = n_samples[rows]
    part_of_row = (np.cumsum(sizes) - sizes) // ((seconds or PART_SECONDS) * SAMPLE_RATE)
    return np.split(rows, np.flatnonzero(np.diff(part_of_row)) + 1)


def digest_rows(ids: Sequence[str], n_samples: np.ndarray) -> str:
    """sha256 of the lengths and ids of all rows, in order."""
    total = hashlib.sha256(n_samples.astype("<i8").tobytes())
    total.update("\n".join(ids).encode())
    return total.hexdigest()


class PartWriter:
    """Writes one part: `add` utterances, then `close`. What was not closed does not count."""

    def __init__(self, directory: Path, part_index: int, header: CacheHeader):
        self.path, self.index_path = part_paths(directory, part_index)
        for stale in directory.glob(f"{self.path.name}.*.tmp"):  # of a run that was killed
            stale.unlink()
        self.temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        self.header, self.index = header, PartIndex()
        self.loss = StorageLoss.none(len(header.layers))
        self.stream = open(self.temporary, "wb")

    def add(self, utterance: str, features: Dict[int, Tensor], frames: int, samples: int) -> None:
        """Features {layer: [>= frames, D]} of one utterance of `samples` (in its manifest), on any device."""
        block = torch.stack([features[layer][:frames].float() for layer in self.header.layers])
        pieces = self.header.storage.encode(block)
        self.loss.add(block, self.header.storage.decode(pieces))
        arrays = [piece.cpu().numpy() for piece in pieces]
        for layer in range(len(block)):
            for array in arrays:
                self.stream.write(array[layer].tobytes())
        self.index.ids.append(utterance)
        self.index.frames.append(frames)
        self.index.samples.append(samples)

    def close(self, bad: Dict[str, str]) -> None:
        """Makes the part visible. bad: utterances that could not be read -> reason."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        os.replace(self.temporary, self.path)
        self.index.bad, self.index.loss = bad, self.loss.sums.tolist()
        write_atomically(self.index_path, json.dumps(asdict(self.index)).encode())

    def discard(self) -> None:
        """Removes what was written."""
        self.stream.close()
        self.temporary.unlink(missing_ok=True)
