"""Teacher features on disk, by utterance id: computed once by `colld features`, read at every epoch.

The files are described in cache_files.py.
"""

from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from colld_fairseq.checkpoints.encoder import hash_of
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import AnyManifest
from colld_fairseq.errors import TeacherError
from colld_fairseq.teachers.alignment import TOLERANCE
from colld_fairseq.teachers.base import TeacherOutput
from colld_fairseq.teachers.cache_files import CacheHeader, part_paths, read_parts


class _Place(NamedTuple):
    """Where an utterance lies: part, first byte, frames; and its samples in the manifest (None: not known)."""

    part: int
    start: int
    frames: int
    samples: Optional[int]


class FeatureCache:
    """Reads a cache; the numbers are memory-mapped. Made by `FeatureCache.open`."""

    def __init__(self, directory: Path, header: CacheHeader, layers: Sequence[int]):
        self.directory, self.header = directory, header
        self.layers = tuple(layers)
        self.rows = [header.layers.index(layer) for layer in layers]
        self.places: Dict[str, _Place] = {}
        self.bad: Dict[str, str] = {}
        self._maps: Dict[int, np.memmap] = {}
        for part_index, part in enumerate(read_parts(directory, header)):
            start = 0
            samples = part.samples or [None] * len(part.ids)
            for utterance, frames, length in zip(part.ids, part.frames, samples):
                self.places[utterance] = _Place(part_index, start, frames, length)
                start += header.utterance_bytes(frames)
            self.bad.update(part.bad)

    @classmethod
    def open(
        cls,
        directory,
        teacher: Optional[str] = None,
        layers: Optional[Sequence[int]] = None,
        kind: Optional[str] = None,
        codebooks: str = "",
    ) -> "FeatureCache":
        """The cache in `directory`, to be read as `layers` (all, if None) of `teacher` (a spec).

        codebooks: content hash of those whose indexes are welcome in the place of features.

        Raises TeacherError: it is of another teacher, kind or codebooks, lacks a layer, or is not complete.
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
        if header.codebooks not in ("", codebooks):
            differences.append(f"holds indexes into {'other ' if codebooks else ''}codebooks, not features")
        if differences:
            reason = "; ".join(differences)
            raise TeacherError(f"teacher cache {directory} {reason}. Make another with `colld features`")
        return cls(directory, header, layers)

    def check_manifest(self, manifest: AnyManifest) -> None:
        """Raises TeacherError unless the cache knows every row of a manifest, with about its length.

        Utterances that gave no features are known.
        """
        # The lengths of an utterance in two manifests may differ by as much as those of two encoders.
        tolerance = TOLERANCE * SAMPLE_RATE / self.header.frame_rate_hz
        differences: List[str] = []
        for row, (name, length) in enumerate(zip(manifest.ids, manifest.n_samples.tolist())):
            entry = self.places.get(name)
            if entry is None and name not in self.bad:
                differences.append(f"{manifest.where(row)}: {name} is not in it")
            elif entry and entry.samples is not None and abs(entry.samples - length) > tolerance:
                differences.append(f"{manifest.where(row)}: {name} has {length} samples here, {entry.samples} there")
        if differences:
            raise TeacherError(
                f"teacher cache {self.directory} was made from another manifest ({self.header.manifest}): "
                f"{differences[0]}{f', and {len(differences) - 1} more' * (len(differences) > 1)}. "
                f"Make one of this manifest with `colld features`"
            )

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, utterance: str) -> bool:
        return utterance in self.places

    def read(self, ids: Sequence[str], device="cpu") -> TeacherOutput:
        """Features of a batch of utterances, float32 {layer: [B, T, D]}, zero beyond their lengths.

        Raises TeacherError naming an id that is not there, or whose features are NaN.
        """
        places = [self._place(utterance) for utterance in ids]
        frames = [entry.frames for entry in places]
        values = self.header.storage.decode([piece.to(device) for piece in self._read_pieces(places)])
        for utterance, length in enumerate(frames):  # cheaper than a mask, which would touch every number
            values[:, utterance, length:] = 0.0
        lengths = torch.tensor(frames, device=device)
        output = TeacherOutput(dict(zip(self.layers, values)), lengths, self.header.frame_rate_hz)
        return output.checked(ids, f"teacher cache {self.directory}: make it again with `colld features`")

    def _read_pieces(self, places: Sequence[_Place]) -> List[Tensor]:
        """What the storage decodes: each of its pieces as [layers, B, its longest, D], on the CPU."""
        header = self.header
        longest = header.storage.pieces(max(entry.frames for entry in places))
        shape = (len(self.rows), len(places))
        batch = [np.zeros((*shape, piece.rows, header.width), dtype=piece.dtype) for piece in longest]
        for utterance, entry in enumerate(places):
            numbers, size = self._map(entry.part), header.layer_bytes(entry.frames)
            for layer, row in enumerate(self.rows):
                start = entry.start + row * size
                for piece, into in zip(header.storage.pieces(entry.frames), batch):
                    end = start + header.piece_bytes(piece)
                    stored = numbers[start:end].view(piece.dtype)
                    into[layer, utterance, : piece.rows] = stored.reshape(piece.rows, header.width)
                    start = end
        return [torch.from_numpy(array) for array in batch]

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
            self._maps[part] = np.memmap(part_paths(self.directory, part)[0], dtype=np.uint8, mode="r")
        return self._maps[part]


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))
