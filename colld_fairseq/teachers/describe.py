"""Depth, width and frame rate of a teacher before its weights are loaded (the layer map decides which are)."""

import math
from dataclasses import dataclass
from typing import Any, Dict

import torch

from colld_fairseq.checkpoints import names_colld, names_fairseq, names_hf
from colld_fairseq.checkpoints.files import read_json, resolve_directory
from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.modules.encoder import StudentEncoder

WHISPER_RATE_HZ, FBANK_RATE_HZ = 50.0, 100.0


@dataclass(frozen=True)
class TeacherInfo:
    num_layers: int
    width: int
    frame_rate_hz: float
    has_tail: bool = False
    """Whether it takes in silence behind an utterance (Whisper)."""


def describe_teacher(spec: str) -> TeacherInfo:
    """From the configuration alone, for all that `load_teacher` takes. Raises TeacherError."""
    scheme, _, name = spec.partition(":")
    try:
        if scheme == "fairseq":
            fields = names_fairseq.FIELDS.to_ours(names_fairseq.open_file(name).model)
            strides = [stride for _, _, stride in names_fairseq.parse_conv_layers(fields["conv_layers"])]
            return TeacherInfo(fields["layers"], fields["embed_dim"], SAMPLE_RATE / math.prod(strides))
        if scheme == "colld":
            config = names_colld.read_model(name).config
            with torch.device("meta"):  # without memory for weights
                encoder = StudentEncoder(config)
            return TeacherInfo(config.layers, config.embed_dim, encoder.frame_rate_hz, config.input_kind == "log_mel")
        return _of_directory(read_json(resolve_directory(name) / "config.json"))
    except ConfigError as error:
        raise TeacherError(f"teacher {spec}: {error}") from error


def _of_directory(settings: Dict[str, Any]) -> TeacherInfo:
    family = names_hf.check_family(settings)
    if family == "whisper":
        return TeacherInfo(settings["encoder_layers"], settings["d_model"], WHISPER_RATE_HZ, has_tail=True)
    if family == "wav2vec2-bert":
        fields, rate_hz = names_hf.BERT_FIELDS, FBANK_RATE_HZ / names_hf.fbank_stack_of(settings)
    else:
        fields, rate_hz = names_hf.WAV2VEC_FIELDS, SAMPLE_RATE / math.prod(names_hf.conv_layers_of(settings)[2])
    ours = fields.to_ours(settings)
    return TeacherInfo(ours["layers"], ours["embed_dim"], rate_hz)
