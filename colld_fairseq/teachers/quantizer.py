"""Residual quantizers: a teacher's frame as a few bytes, each an index into a codebook (`colld codebooks`).

    z = (h - mean) / std,   i_1 = argmin_k |z - e_1k|,   i_2 = argmin_k |z - e_1,i_1 - e_2k|,   ...

The first codebook is k-means on frames, each further one k-means on what those before it leave over, so that the sum of
the chosen entries comes closer with every codebook. A student learns the indexes in place of the features (MVQ-KD,
2211.00508, whose quantizer is a trained one; SPEAR, 2510.25955).
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Tuple

import torch
from torch import Tensor

from colld_fairseq.checkpoints.encoder import hash_of
from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.field_types import check_types
from colld_fairseq.files import write_atomically
from colld_fairseq.parsing import parse_json
from colld_fairseq.teachers.cache_files import check_equal

FORMAT = "colld-codebooks-1"
LARGEST = 256  # entries of a codebook: an index is a byte
TENSORS = ("codebooks", "mean", "std")


@dataclass(frozen=True)
class QuantizerSettings:
    """All that decides what a quantizer holds: content hash, layer and kind of the teacher; codebooks, entries of each
    and seed; rows: digest of the ids and lengths of the utterances that its frames were drawn from; max_seconds of them
    (0 = all)."""

    content_hash: str
    layer: int
    kind: str
    num_codebooks: int
    num_codes: int
    seed: int
    rows: str
    max_seconds: float

    def must_equal(self, other: "QuantizerSettings", where) -> None:
        """Raises ConfigError naming the first difference of what is at `where` (other)."""
        check_equal(self, other, [entry.name for entry in fields(QuantizerSettings)], f"{where} has codebooks")


@dataclass(frozen=True)
class QuantizerHeader(QuantizerSettings):
    """How a quantizer was made, and from which teacher (its spec).

    frames: of the fit; errors: mean squared error of a normalized channel with the first 1, 2, ... codebooks, on these
    frames (with none it would be about 1).
    """

    teacher: str
    frame_rate_hz: float
    frames: int
    errors: Tuple[float, ...]


@dataclass(frozen=True)
class ResidualQuantizer:
    """codebooks [C, K, D] of normalized features, mean and std [D]; float32. `source`: its file, for messages."""

    codebooks: Tensor
    mean: Tensor
    std: Tensor
    header: QuantizerHeader
    source: str = ""

    @property
    def bytes_per_frame(self) -> int:
        return self.header.num_codebooks

    @property
    def logits_per_frame(self) -> int:
        """C * K, what a student predicts of a frame."""
        return self.header.num_codebooks * self.header.num_codes

    @property
    def content_hash(self) -> str:
        """sha256 of the tensors, wherever they lie."""
        total = hashlib.sha256()
        for name in TENSORS:
            total.update(getattr(self, name).cpu().numpy().tobytes())
        return total.hexdigest()

    def to(self, device) -> "ResidualQuantizer":
        return replace(self, **{name: getattr(self, name).to(device) for name in TENSORS})

    @torch.no_grad()
    def encode(self, features: Tensor) -> Tensor:
        """uint8 [..., C] of features [..., D] of any precision, computed in float32."""
        with torch.autocast(features.device.type, enabled=False):
            residual, chosen = (features.float() - self.mean) / self.std, []
            for entries in self.codebooks:
                # |r - e|^2 without |r|^2, as one matrix product: [..., K, D] would not fit in memory
                chosen.append((entries.square().sum(-1) - 2 * residual @ entries.T).argmin(-1))
                residual = residual - entries[chosen[-1]]
        return torch.stack(chosen, -1).to(torch.uint8)

    def decode(self, indexes: Tensor) -> Tensor:
        """float32 [..., D], the features that indexes [..., C] stand for; of fewer indexes, the first ones, what these
        know of them."""
        chosen = (entries[index] for entries, index in zip(self.codebooks, indexes.long().unbind(-1)))
        return sum(chosen) * self.std + self.mean

    def check_teacher(self, spec: str) -> None:
        """Raises TeacherError unless it was made from this teacher."""
        if hash_of(spec) != self.header.content_hash:
            raise TeacherError(
                f"codebooks {self.source} were made from {self.header.teacher}, whose files differ from teacher {spec};"
                f" make others with `colld codebooks --teacher {spec}`"
            )

    def save(self, path) -> None:
        """Writes the file, whole or not at all."""
        from safetensors.torch import save

        tensors = {name: getattr(self, name).contiguous() for name in TENSORS}
        write_atomically(Path(path), save(tensors, {"colld": json.dumps({"format": FORMAT, **asdict(self.header)})}))

    @classmethod
    def load(cls, path) -> "ResidualQuantizer":
        """Reads the file. Raises TeacherError: absent, damaged, or not written by `colld codebooks`."""
        remedy = "write them with `colld codebooks`"
        tensors, facts = _read(path, remedy)
        if facts.pop("format", None) != FORMAT:
            raise TeacherError(f"{path}: no codebooks of this version; {remedy}")
        try:
            header = QuantizerHeader(**{**facts, "errors": tuple(facts["errors"])})
            quantizer = cls(*(tensors[name] for name in TENSORS), header, str(path))
            check_types(header)
        except (KeyError, TypeError, ConfigError) as error:
            raise TeacherError(f"{path}: incomplete codebooks ({error}); {remedy}") from error
        width = quantizer.mean.shape[-1:]
        expected = ((header.num_codebooks, header.num_codes, *width), width, width)
        if any(getattr(quantizer, name).shape != shape for name, shape in zip(TENSORS, expected)):
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in tensors.items())
            raise TeacherError(f"{path}: shapes do not fit each other ({shapes}); {remedy}")
        return quantizer


def _read(path, remedy: str) -> Tuple[dict, dict]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            facts = parse_json((handle.metadata() or {}).get("colld", "{}"))
            if not isinstance(facts, dict):
                raise ValueError("no facts about it")
            return {name: handle.get_tensor(name).to(torch.float32) for name in handle.keys()}, facts
    except (OSError, SafetensorError, ValueError) as error:
        raise TeacherError(f"{path}: cannot be read as codebooks ({error}); {remedy}") from error
