"""Encoders as their own libraries compute them, to compare a converted checkpoint with what it was made from.

Nothing here goes through the renaming of weights that a conversion uses, except fairseq's, whose class is built
without the heads of the checkpoint. fairseq2, which cannot be installed beside us, is stood in for by transformers.
"""

from dataclasses import dataclass
from typing import Callable, Dict, List, NamedTuple, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from colld_fairseq.checkpoints import encoder
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.hooks import FeatureTap
from colld_fairseq.modules.input_config import InputConfig


@dataclass
class NativeEncoder:
    """A model of some library."""

    input: InputConfig
    """What it takes, as its files record it."""
    prepare: Callable[[np.ndarray], Tensor]
    """Waveform [N] -> what the library itself makes of it: samples [N] or filterbanks [T, 80]."""
    layers: Callable[[Tensor], Dict[str, Tensor]]
    """Such an input -> {"0": [T, D], …, "12": [T, D], "output": [T, D]}, layers numbered as everywhere (raw block
    outputs), "output" after the final norm where there is one."""


class Difference(NamedTuple):
    """One row of a comparison: largest absolute difference, and the largest absolute value of the source."""

    layer: str
    difference: float
    largest: float

    @property
    def relative(self) -> float:
        return self.difference / max(self.largest, 1e-30)

    def within(self, tolerance: float) -> bool:
        """Absolute for values up to 1, relative to the layer's largest value above. NaN is never within."""
        return self.difference <= tolerance * max(1.0, self.largest)


def open_native(spec: str, complete: bool = False) -> NativeEncoder:
    """The encoder `spec` (hf:DIR, fairseq:FILE.pt, ...) in its own library, float32, on the CPU.

    complete: nothing may be missing in the file or be left over in it. Raises ColldError.
    """
    module, name = encoder.format_of(spec)
    return module.own_library(name, complete)


@torch.no_grad()
def compare(source: NativeEncoder, target: NativeEncoder, waveform: np.ndarray) -> List[Difference]:
    """Both encoders on one utterance [N].

    The first row, "input", compares what the two libraries make of the waveform; they add different constants to
    a variance and compute filterbanks in different precisions. All others are on the source's input.
    """
    given, other = source.prepare(waveform), target.prepare(waveform)
    frames = min(len(given), len(other))  # transformers drops filterbank frames that do not fill a last stack
    rows = [_difference("input", given[:frames], other[:frames])]
    theirs, ours = source.layers(given), target.layers(given)
    if theirs.keys() != ours.keys():
        raise ConfigError(f"the converted encoder has layers {list(ours)}, the source {list(theirs)}")
    return rows + [_difference(layer, theirs[layer], ours[layer]) for layer in theirs]


def _difference(layer: str, source: Tensor, target: Tensor) -> Difference:
    if source.shape != target.shape:
        there, here = list(target.shape), list(source.shape)
        raise ConfigError(f"{layer} is {there} in the converted encoder, {here} in the source")
    return Difference(layer, (source - target).abs().max().item(), source.abs().max().item())


def tapped(blocks: Sequence[nn.Module], forward: Callable[[Tensor], Tensor], time_first: bool = False):
    """`layers` of a NativeEncoder for a model with these blocks; forward gives [T, D].

    time_first: blocks pass [T, B, D] (fairseq, which also may add a padded frame) instead of [B, T, D].
    """
    feature_tap = FeatureTap(blocks, range(len(blocks) + 1), "layer", None)

    def layers(source: Tensor) -> Dict[str, Tensor]:
        output = forward(source)
        features = {k: (x[:, 0] if time_first else x[0])[: len(output)] for k, x in feature_tap.take().items()}
        return {**{str(k): x for k, x in features.items()}, "output": output}

    return layers
