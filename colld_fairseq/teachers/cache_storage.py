"""How a cache keeps the numbers of an utterance: in half precision, or in one byte each.

float16   as they are, beyond +-65504 cut to it
uint8     256 even steps from the lowest to the highest value that a channel has in the utterance: half the space.
          Steps of a channel's own, because channels of one layer can differ a hundredfold in range.

Indexes into codebooks (quantizer.py), which are no features, are stored as they are, a byte for each codebook.

An utterance's features [layers, T, D] are stored layer after layer, each layer as its pieces one after another.
"""

from typing import Dict, List, NamedTuple, Protocol, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

LARGEST = float(torch.finfo(torch.float16).max)


class Piece(NamedTuple):
    """Part of what is stored for one layer of an utterance: [rows, D] numbers of a dtype (its name)."""

    dtype: str
    rows: int


class Storage(Protocol):
    """`encode` and `decode` work on [..., T, D] float32, on any device; `pieces` says what `encode` gives for T."""

    def pieces(self, frames: int) -> List[Piece]: ...

    def encode(self, features: Tensor) -> Tuple[Tensor, ...]: ...

    def decode(self, pieces: Sequence[Tensor]) -> Tensor: ...


class HalfPrecision:
    """float16."""

    def pieces(self, frames: int) -> List[Piece]:
        return [Piece("float16", frames)]

    def encode(self, features: Tensor) -> Tuple[Tensor, ...]:
        return (features.clamp(-LARGEST, LARGEST).half(),)

    def decode(self, pieces: Sequence[Tensor]) -> Tensor:
        return pieces[0].float()


class ByteSteps:
    """uint8, with the lowest value and the step of each channel in float32."""

    STEPS = 255

    def pieces(self, frames: int) -> List[Piece]:
        return [Piece("float32", 1), Piece("float32", 1), Piece("uint8", frames)]

    def encode(self, features: Tensor) -> Tuple[Tensor, ...]:
        lowest, highest = features.aminmax(dim=-2, keepdim=True)
        step = (highest - lowest) / self.STEPS
        numbers = ((features - lowest) / step.clamp_min(torch.finfo(torch.float32).tiny)).round_()
        return lowest, step, numbers.to(torch.uint8)

    def decode(self, pieces: Sequence[Tensor]) -> Tensor:
        lowest, step, numbers = pieces
        return numbers.float().mul_(step).add_(lowest)


class Indexes:
    """uint8, as they are: what comes and goes are whole numbers from 0 to 255."""

    def pieces(self, frames: int) -> List[Piece]:
        return [Piece("uint8", frames)]

    def encode(self, features: Tensor) -> Tuple[Tensor, ...]:
        return (features.to(torch.uint8),)

    def decode(self, pieces: Sequence[Tensor]) -> Tensor:
        return pieces[0].float()


STORAGES: Dict[str, Storage] = {"float16": HalfPrecision(), "uint8": ByteSteps()}  # of features


class StorageLoss:
    """How far stored features are from the teacher's, for each layer, over all utterances given to `add`.

    error: root mean square difference, in standard deviations of the channel over the utterance (channels that do not
    change in an utterance do not count); cosine_distance: 1 - cosine between the two vectors of a frame, mean.
    """

    def __init__(self, sums: Sequence[Sequence[float]]) -> None:
        """sums [layers, 4]: squared errors, their number, cosine distances, frames."""
        self.sums = torch.tensor(sums, dtype=torch.float64)

    @classmethod
    def none(cls, layers: int) -> "StorageLoss":
        """Before the first utterance."""
        return cls([[0.0] * 4] * layers)

    def add(self, features: Tensor, stored: Tensor) -> None:
        """An utterance [layers, T, D], as the teacher gave it and as it will be read."""
        variance = features.var(-2, correction=0)
        changes = (features != features[:, :1]).any(-2) & (variance > 0)
        errors = torch.where(changes, (stored - features).square().sum(-2) / variance, 0.0)
        # Half the squared distance of unit vectors: 1 - cosine itself would be rounding errors.
        difference = normalize(features, dim=-1) - normalize(stored, dim=-1)
        frames = features.size(-2)
        terms = [errors.sum(-1), changes.sum(-1) * frames, difference.square().sum((-1, -2)) / 2]
        terms.append(torch.full_like(terms[0], frames))
        self.sums += torch.stack(terms, -1).double().cpu()

    def merge(self, other: "StorageLoss") -> None:
        self.sums += other.sums

    def of_layers(self, layers: Sequence[int]) -> Dict[str, Dict[str, float]]:
        """{layer: {"error", "cosine_distance"}}, for JSON."""
        squares, numbers, distances, frames = self.sums.T
        error, distance = (squares / numbers.clamp_min(1)).sqrt(), distances / frames.clamp_min(1)
        return {
            str(layer): {"error": float(error[row]), "cosine_distance": float(distance[row])}
            for row, layer in enumerate(layers)
        }
