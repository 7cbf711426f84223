"""Students and teachers behind one interface: utterances in, chosen layers side by side out."""

import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from colld_fairseq.checkpoints.names_colld import load_student
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.lengths import lengths_to_padding_mask
from colld_fairseq.teachers import layers_of, load_teacher
from colld_fairseq.teachers.alignment import align_frames


class Features(NamedTuple):
    """All layers of a batch side by side, [B, T, sum D], and the valid frames of each utterance, int64 [B]."""

    layers: Tensor
    lengths: Tensor


class TeacherLayers:
    """A frozen teacher. `layers`: None for all."""

    role = "teacher"

    def __init__(self, spec: str, layers: Optional[Sequence[int]], device: str):
        if layers is None:
            layers = layers_of(spec)
        self.name = spec
        self.teacher = load_teacher(spec, layers=layers, device=device)
        self.layers = list(self.teacher.layers)
        self.widths = [self.teacher.width] * len(self.layers)
        self.frame_rate_hz = self.teacher.frame_rate_hz
        self.output_lengths, self.max_samples = self.teacher.output_lengths, math.inf

    def __call__(self, waveforms: Sequence[Tensor]) -> Features:
        padded = torch.nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True)
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        output = self.teacher(padded.to(self.teacher.device), lengths)
        return Features(torch.cat([output.features[layer] for layer in self.layers], -1), output.lengths)


class StudentLayers:
    """The student of a checkpoint, with the input it was trained on. `layers`: None for all."""

    role = "student"

    def __init__(self, path: str, layers: Optional[Sequence[int]], device: str, cmvn: Optional[str] = None):
        self.name, self.device = path, device
        self.student = load_student(path, cmvn).to(device)
        self.input = StudentInput(self.student.config.input)
        self.max_samples = self.input.max_samples
        every = range(self.student.num_layers + 1)
        self.layers = sorted(set(every if layers is None else layers))
        wrong = [layer for layer in self.layers if layer not in every]
        if wrong:
            raise ConfigError(f"{path}: layer {wrong[0]} does not exist; there are 0 to {self.student.num_layers}")
        self.widths = [self.student.width] * len(self.layers)
        self.frame_rate_hz = self.student.frame_rate_hz

    def output_lengths(self, samples: Tensor) -> Tensor:
        """Samples int64 [B] -> frames [B]."""
        return self.student.output_lengths(self.input.lengths(samples))

    @torch.no_grad()
    def __call__(self, waveforms: Sequence[Tensor]) -> Features:
        sources = [torch.from_numpy(self.input(waveform.numpy())) for waveform in waveforms]
        lengths = torch.tensor([len(source) for source in sources], device=self.device)
        padded = torch.nn.utils.rnn.pad_sequence(sources, batch_first=True).to(self.device)
        output = self.student(padded, lengths, layers=self.layers)
        return Features(torch.cat([output.features[layer] for layer in self.layers], -1), output.lengths)


def paired_frames(rows, columns, ids: List[str], waveforms: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
    """Features [n, sum D] of both models on the frames they share, without padding; more frames per second are averaged
    to the other's rate. TeacherError: rates that do not fit, or more than two frames' difference on an utterance."""
    x, y = rows(waveforms), columns(waveforms)
    if rows.frame_rate_hz > columns.frame_rate_hz:
        x = _align(x, rows, columns, y.lengths, ids)
        lengths = x.lengths
    else:
        y = _align(y, columns, rows, x.lengths, ids)
        lengths = y.lengths
    frames = int(lengths.max())
    valid = ~lengths_to_padding_mask(lengths, frames)
    return x.layers[:, :frames][valid], y.layers[:, :frames][valid]


def _align(features: Features, source, target, target_lengths: Tensor, ids: List[str]) -> Features:
    rates, names = (source.frame_rate_hz, target.frame_rate_hz), (source.role, target.role)
    rule = "none" if rates[0] == rates[1] else "average"
    return Features(*align_frames(*features, *rates, rule, target_lengths, ids, names))
