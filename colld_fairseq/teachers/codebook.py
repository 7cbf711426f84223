"""Codebooks: k-means centroids of one teacher layer, as `colld cluster` writes them (safetensors)."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Tuple

import torch
from torch import Tensor

from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.field_types import check_types
from colld_fairseq.files import write_atomically
from colld_fairseq.parsing import parse_json
from colld_fairseq.teachers.cache_files import check_equal

FORMAT = "colld-codebook-1"
METRIC = "euclidean"


@dataclass(frozen=True)
class FitSettings:
    """All that decides what a codebook holds: content hash, layer and kind of the teacher; clusters, passes over
    the utterances and seed; rows: digest of the utterances' ids and lengths."""

    content_hash: str
    layer: int
    kind: str
    num_clusters: int
    passes: int
    seed: int
    rows: str

    def must_equal(self, other: "FitSettings", where) -> None:
        """Raises ConfigError naming the first difference of what is at `where` (other)."""
        names = [entry.name for entry in fields(FitSettings)]
        check_equal(self, other, names, f"{where} is of a fit")


@dataclass(frozen=True)
class CodebookHeader(FitSettings):
    """How a codebook was made, and from which teacher (its spec).

    frames: frames seen, those of every pass; inertia: mean squared distance of a normalized frame to its
    centroid, summed over channels, measured in the last pass.
    """

    teacher: str
    frame_rate_hz: float
    frames: int
    inertia: float


@dataclass(frozen=True)
class Codebook:
    """centroids [C, D] of normalized features (h - mean) / std, with mean and std [D]; float32."""

    centroids: Tensor
    mean: Tensor
    std: Tensor
    header: CodebookHeader

    def save(self, path) -> None:
        """Writes the file, whole or not at all."""
        from safetensors.torch import save

        tensors = {name: getattr(self, name).contiguous() for name in ("centroids", "mean", "std")}
        facts = {"format": FORMAT, "metric": METRIC, **asdict(self.header)}
        write_atomically(Path(path), save(tensors, {"colld": json.dumps(facts)}))

    @classmethod
    def load(cls, path) -> "Codebook":
        """Reads the file. Raises TeacherError: absent, damaged, or not written by `colld cluster`."""
        tensors, facts = _read(Path(path))
        if facts.pop("format", None) != FORMAT or facts.pop("metric", None) != METRIC:
            raise TeacherError(f"{path}: not a codebook of this version; write one with `colld cluster`")
        try:
            header = CodebookHeader(**facts)
            book = cls(tensors["centroids"], tensors["mean"], tensors["std"], header)
            check_types(header)
        except (KeyError, TypeError, ConfigError) as error:
            raise TeacherError(f"{path}: incomplete codebook ({error}); write it with `colld cluster`") from error
        width = book.mean.shape[-1:]
        if book.centroids.shape != (header.num_clusters, *width) or not book.mean.shape == book.std.shape == width:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in tensors.items())
            raise TeacherError(f"{path}: shapes do not fit each other ({shapes}); write it with `colld cluster`")
        return book


def _read(path: Path) -> Tuple[dict, dict]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            facts = parse_json((handle.metadata() or {}).get("colld", "{}"))
            if not isinstance(facts, dict):
                raise ValueError("no facts about it")
            return {name: handle.get_tensor(name).to(torch.float32) for name in handle.keys()}, facts
    except (OSError, SafetensorError, ValueError) as error:
        raise TeacherError(f"{path}: cannot be read as a codebook ({error}); write one with `colld cluster`") from error
