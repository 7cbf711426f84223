"""Teacher features on disk, by utterance id: computed once, read at every epoch.

A cache is a folder with header.json (which teacher, layers, kind, rate, width) and parts: part-00000.bin has
float16 numbers, [layers, frames, width] of each utterance one after another, part-00000.json ids and frames.
Both are written under a temporary name and renamed, the index last: a part that has an index is whole.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from colld_fairseq.errors import TeacherError
from colld_fairseq.files import write_whole
from colld_fairseq.teachers.base import TeacherOutput
from colld_fairseq.teachers.weights import hash_of

DTYPE = "float16"
LARGEST = float(np.finfo(DTYPE).max)  # larger values are cut to it


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
    dtype: str = DTYPE

    @property
    def command(self) -> str:
        """The command that makes or completes this cache, up to its folder."""
        layers = ",".join(map(str, self.layers))
        return (
            f"colld features --manifest {self.manifest} --teacher {self.teacher} --layers {layers} "
            f"--kind {self.kind} --out"
        )

    def save(self, directory: Path) -> None:
        """Writes header.json; where there is one already it has to say the same."""
        path = directory / "header.json"
        if path.is_file():
            self._must_equal(CacheHeader.load(directory), directory)
            return
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(self), indent=1).encode())

    def _must_equal(self, other: "CacheHeader", directory: Path) -> None:
        ignored = ("teacher", "manifest")  # the hash and the digest tell more than paths do
        for name, value in asdict(self).items():
            found = getattr(other, name)
            if found != value and name not in ignored:
                raise TeacherError(
                    f"{directory} holds a cache with another {name} ({found}, not {value}); give another "
                    f"--out or delete it"
                )

    @classmethod
    def load(cls, directory: Path) -> "CacheHeader":
        try:
            content = json.loads((directory / "header.json").read_text())
            return cls(**{**content, "layers": tuple(content["layers"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TeacherError(
                f"{directory}: no teacher cache (header.json: {error}); make one with `colld features`"
            ) from error


def part_paths(directory: Path, number: int) -> Tuple[Path, Path]:
    """The files of one part: numbers, index."""
    return directory / f"part-{number:05d}.bin", directory / f"part-{number:05d}.json"


def read_index(directory: Path, number: int) -> Optional[Dict]:
    """{"ids", "frames", "bad"} of a finished part, or None."""
    path = part_paths(directory, number)[1]
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


class PartWriter:
    """Writes one part: `add` utterances, then `close`. What was not closed does not count."""

    def __init__(self, directory: Path, number: int, header: CacheHeader):
        self.path, self.index_path = part_paths(directory, number)
        for stale in directory.glob(f"{self.path.name}.*.tmp"):  # of a run that was killed
            stale.unlink()
        self.temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        self.header = header
        self.stream = open(self.temporary, "wb")
        self.ids: List[str] = []
        self.frames: List[int] = []

    def add(self, utterance: str, features: Dict[int, Tensor], frames: int) -> None:
        """Features {layer: [>= frames, D]} of one utterance, on any device."""
        block = torch.stack([features[layer][:frames].float() for layer in self.header.layers])
        self.stream.write(block.clamp(-LARGEST, LARGEST).half().cpu().numpy().tobytes())
        self.ids.append(utterance)
        self.frames.append(frames)

    def close(self, bad: Dict[str, str]) -> None:
        """Makes the part visible. bad: utterances that could not be read -> reason."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        os.replace(self.temporary, self.path)
        index = {"ids": self.ids, "frames": self.frames, "bad": bad}
        write_whole(self.index_path, json.dumps(index, ensure_ascii=False).encode())

    def discard(self) -> None:
        """Removes what was written."""
        self.stream.close()
        self.temporary.unlink(missing_ok=True)


class _Place(NamedTuple):
    """Where an utterance lies: part, first number, frames."""

    part: int
    start: int
    frames: int


class FeatureCache:
    """Reads a cache; the numbers are memory-mapped. Made by `FeatureCache.open`."""

    def __init__(self, directory: Path, header: CacheHeader, layers: Sequence[int]):
        self.directory, self.header = directory, header
        self.layers = tuple(layers)
        self.rows = [header.layers.index(layer) for layer in layers]
        self.places: Dict[str, _Place] = {}
        self.bad: Dict[str, str] = {}
        self._maps: Dict[int, np.memmap] = {}
        for part in range(header.num_parts):
            self._read_index(part)

    @classmethod
    def open(
        cls,
        directory,
        teacher: Optional[str] = None,
        layers: Optional[Sequence[int]] = None,
        kind: Optional[str] = None,
    ) -> "FeatureCache":
        """The cache in `directory`, to be read as `layers` (all, if None) of `teacher` (a spec).

        Raises TeacherError: it is of another teacher or kind, lacks a layer, or is not complete.
        """
        directory = Path(directory)
        header = CacheHeader.load(directory)
        layers = header.layers if layers is None else tuple(sorted(set(layers)))
        differences = []
        if teacher is not None and hash_of(teacher) != header.content_hash:
            differences.append(f"was made by {header.teacher}, whose files differ from {teacher}")
        missing = sorted(set(layers) - set(header.layers))
        if missing:
            differences.append(f"lacks layers {_listed(missing)} (has {_listed(header.layers)})")
        if kind is not None and kind != header.kind:
            differences.append(f"is of kind {header.kind!r}, not {kind!r}")
        if differences:
            reason = "; ".join(differences)
            raise TeacherError(f"teacher cache {directory} {reason}. Make another with `colld features`")
        return cls(directory, header, layers)

    def _read_index(self, part: int) -> None:
        path, index_path = part_paths(self.directory, part)
        index = read_index(self.directory, part)
        if index is None:
            raise TeacherError(
                f"teacher cache {self.directory} is not complete: {index_path.name} is missing, of "
                f"{self.header.num_parts} parts; finish it with: {self.header.command} {self.directory}"
            )
        per_frame = len(self.header.layers) * self.header.width
        start = 0
        for utterance, frames in zip(index["ids"], index["frames"]):
            self.places[utterance] = _Place(part, start, frames)
            start += frames * per_frame
        self.bad.update(index["bad"])
        size = path.stat().st_size if path.is_file() else 0
        if size != start * np.dtype(DTYPE).itemsize:
            raise TeacherError(
                f"{path}: {size} bytes do not fit its index; delete {index_path.name} and make it again: "
                f"{self.header.command} {self.directory}"
            )

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, utterance: str) -> bool:
        return utterance in self.places

    def read(self, ids: Sequence[str], device="cpu") -> TeacherOutput:
        """Features of a batch of utterances, float32 {layer: [B, T, D]}, zero beyond their lengths.

        Raises TeacherError naming an id that is not there.
        """
        places = [self._place(utterance) for utterance in ids]
        width, longest = self.header.width, max(place.frames for place in places)
        batch = np.zeros((len(self.rows), len(places), longest, width), dtype=DTYPE)
        for row, place in enumerate(places):
            size = len(self.header.layers) * place.frames * width
            block = self._map(place.part)[place.start : place.start + size]
            batch[:, row, : place.frames] = block.reshape(-1, place.frames, width)[self.rows]
        values = torch.from_numpy(batch).to(device).float()
        lengths = torch.tensor([place.frames for place in places], device=device)
        return TeacherOutput(dict(zip(self.layers, values)), lengths, self.header.frame_rate_hz)

    def _place(self, utterance: str) -> _Place:
        if utterance in self.places:
            return self.places[utterance]
        why = f"it gave no features ({self.bad[utterance]})" if utterance in self.bad else "it is not there"
        raise TeacherError(
            f"utterance {utterance} in teacher cache {self.directory}: {why}; the cache was made by: "
            f"{self.header.command} {self.directory}"
        )

    def _map(self, part: int) -> np.memmap:
        if part not in self._maps:
            self._maps[part] = np.memmap(part_paths(self.directory, part)[0], dtype=DTYPE, mode="r")
        return self._maps[part]


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))
