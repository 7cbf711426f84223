"""Depth, width and frame rate of a teacher before its weights are loaded (the layer map decides which are)."""

import math
from dataclasses import dataclass

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.teachers import load_teacher
from colld_fairseq.teachers.weights import read_config, resolve_directory

FRAME_RATE_HZ = 50.0  # of Whisper and w2v-BERT 2.0; the other families' configurations name their strides


@dataclass(frozen=True)
class TeacherInfo:
    num_layers: int
    width: int
    frame_rate_hz: float


def describe_teacher(spec: str) -> TeacherInfo:
    """From config.json alone where there is one; a fairseq checkpoint has to be opened."""
    scheme, _, name = spec.partition(":")
    if scheme == "hf":
        config = read_config(resolve_directory(name))
        layers = config.get("encoder_layers", config.get("num_hidden_layers"))
        width = config.get("d_model", config.get("hidden_size"))
        if layers and width and not config.get("add_adapter", False):
            strides = config.get("conv_stride")
            return TeacherInfo(layers, width, SAMPLE_RATE / math.prod(strides) if strides else FRAME_RATE_HZ)
    teacher = load_teacher(spec, layers=[1])
    return TeacherInfo(teacher.num_layers, teacher.width, teacher.frame_rate_hz)
