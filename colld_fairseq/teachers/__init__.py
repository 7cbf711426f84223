"""Frozen teachers: `load_teacher("hf:DIR", layers=[4, 8])` turns waveforms into layer features."""

import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Sequence

import torch

from colld_fairseq.checkpoints import (
    names_colld,
    names_custom,
    names_fairseq,
    names_fairseq2,
    names_hf,
    names_omniasr,
    onnx_graph,
    python_class,
)
from colld_fairseq.checkpoints.encoder import TEACHERS, EncoderCheckpoint, read_encoder, usage
from colld_fairseq.checkpoints.files import read_json, resolve_directory
from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.errors import CheckpointError, ConfigError, TeacherError
from colld_fairseq.field_types import check_types
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.parsing import values_of
from colld_fairseq.teachers.base import DTYPES, Teacher, TeacherOutput, check_request

WHISPER_RATE_HZ, FBANK_RATE_HZ = 50.0, 100.0
EXACT_FAMILIES = ("hubert", "wav2vec2")  # WavLM's gated position bias has no place in the student encoder
__all__ = ["Teacher", "TeacherInfo", "TeacherOutput", "describe_teacher", "layers_of", "load_teacher"]


def load_teacher(
    spec: str, layers: Sequence[int], kind: str = "layer", dtype: str = "float32", device: str = "cpu"
) -> Teacher:
    """Loads a frozen teacher from this machine; nothing is ever downloaded.

    Args:
        spec: "hf:DIR" (a directory in Hugging Face layout, or a name already in the local Hugging Face cache),
            "fairseq:FILE.pt" (wav2vec 2.0, HuBERT, data2vec audio), "fairseq2:FILE.pt" (wav2vec 2.0, omniASR; or its
            folder of shards), "colld:FILE.pt" (a student of this project),
            "onnx:FILE.onnx" (any encoder, with a description beside it: see `checkpoints.onnx_graph`) or
            "python:package.module:Class" (a class of the user's own: see docs/own_teacher.md).
        layers: 0 = input of the first block, k = output of block k; of Whisper and encoders of this project also one
            more than there are blocks = what leaves the encoder. Blocks above the highest are not kept.
        kind: "layer" (raw block output) or "ffn" (raw output of the block's feed-forward module, the second
            one in a Conformer, before residual and scale).
        dtype: "float32", "bfloat16" or "float16", of the weights and of the features returned.

    Raises TeacherError: unknown scheme or family, missing or misshaped weights, wrong layer number.
    """
    scheme, _, name = spec.partition(":")
    loaders = {
        "hf": _load_directory,
        "fairseq": _load_fairseq,
        "fairseq2": _load_ours,
        "colld": _load_ours,
        "onnx": _load_graph,
        "python": _load_class,
    }
    if scheme not in loaders or not name:
        raise TeacherError(f"teacher {spec!r}: write {usage(TEACHERS)}")
    if dtype not in DTYPES:
        raise TeacherError(f"teacher {spec}: dtype is {dtype!r}, choose one of {', '.join(DTYPES)}")
    try:
        request = dict(layers=layers, kind=kind, dtype=DTYPES[dtype], device=device)
        return loaders[scheme](spec, name, request)
    except ConfigError as error:
        where = "teacher" if name in str(error) else f"teacher {spec}:"
        raise TeacherError(f"{where} {error}") from error


def _load_directory(spec: str, name: str, request: Dict[str, Any]) -> Teacher:
    """A teacher in Hugging Face layout."""
    directory = resolve_directory(name)
    settings = read_json(directory / "config.json")
    family = names_hf.check_family(settings)
    if family in names_hf.OUR_MODULES:
        return _load_ours(spec, name, request)
    if family in EXACT_FAMILIES:
        exact = _if_exact(lambda blocks: read_encoder(spec, blocks), request)
        if exact is not None:
            return _on_our_modules(exact, spec, request)
    preprocessor, state = names_hf.read_preprocessor(directory, family), names_hf.stored_state(directory)
    from colld_fairseq.teachers.huggingface import load_transformers

    return load_transformers(spec, settings, names_hf.input_of(settings, preprocessor), state, **request)


def _load_fairseq(spec: str, name: str, request: Dict[str, Any]) -> Teacher:
    """A teacher in a checkpoint of fairseq."""
    file = names_fairseq.open_file(name)
    exact = _if_exact(lambda blocks: names_fairseq.encoder_of(file, blocks), request)
    if exact is not None:
        return _on_our_modules(exact, spec, request)
    from colld_fairseq.teachers.huggingface import load_transformers

    return load_transformers(spec, *names_fairseq.to_transformers(file), **request)


def _load_ours(spec: str, name: str, request: Dict[str, Any]) -> Teacher:
    """What the student encoder has a place for: its own checkpoints, Whisper, omniASR."""
    return _on_our_modules(read_encoder(spec, max([0, *request["layers"]])), spec, request)


def _load_graph(spec: str, name: str, request: Dict[str, Any]) -> Teacher:
    """A graph of ONNX."""
    from colld_fairseq.teachers.single import OnnxTeacher

    return OnnxTeacher(name, onnx_graph.describe(name), spec=spec, **request)


def _load_class(spec: str, name: str, request: Dict[str, Any]) -> Teacher:
    """A class of the user's own."""
    from colld_fairseq.teachers.single import PythonTeacher

    return PythonTeacher(name, spec=spec, **request)


def _if_exact(read: Callable[[int], EncoderCheckpoint], request: Dict[str, Any]) -> Optional[EncoderCheckpoint]:
    """The encoder up to the highest layer requested; None where the student encoder has no place for its variant."""
    try:
        return read(max([0, *request["layers"]]))
    except CheckpointError:
        raise
    except ConfigError:
        return None


def _on_our_modules(checkpoint: EncoderCheckpoint, spec: str, request: Dict[str, Any]) -> Teacher:
    from colld_fairseq.teachers.encoder_teacher import EncoderTeacher
    from colld_fairseq.teachers.whisper import WhisperTeacher

    check_request(spec, request["layers"], request["kind"], checkpoint.config.layers, checkpoint.config.norm_first)
    build = WhisperTeacher if checkpoint.config.front_end == "whisper" else EncoderTeacher
    teacher = build(checkpoint, spec=spec, **request)
    teacher.log_size(len(teacher.module.blocks))
    return teacher


@dataclass(frozen=True)
class TeacherInfo:
    """Depth, width and frame rate, before the weights are loaded (the layer map decides which are)."""

    num_layers: int
    width: int
    frame_rate_hz: float
    has_silence: bool = False
    """Whether it takes in silence behind an utterance (Whisper)."""

    def __post_init__(self) -> None:
        check_types(self)
        if min(self.num_layers, self.width, self.frame_rate_hz) <= 0:
            raise ConfigError(f"{self.num_layers} layers of {self.width} at {self.frame_rate_hz:g} Hz are no encoder")


def describe_teacher(spec: str) -> TeacherInfo:
    """From the configuration alone, for all that `load_teacher` takes. Raises TeacherError."""
    scheme, _, name = spec.partition(":")
    try:
        if scheme == "fairseq":
            fields = names_fairseq.FIELDS.to_ours(names_fairseq.open_file(name).model)
            strides = [stride for _, _, stride in names_fairseq.parse_conv_layers(fields["conv_layers"])]
            return TeacherInfo(fields["layers"], fields["embed_dim"], SAMPLE_RATE / math.prod(strides))
        if scheme in ("colld", "fairseq2"):
            ours = scheme == "colld"
            config = names_colld.read_model(name).config if ours else names_fairseq2.read_config(name)
            with torch.device("meta"):  # without memory for weights
                encoder = StudentEncoder(config)
            return TeacherInfo(config.layers, config.embed_dim, encoder.frame_rate_hz, config.input_kind == "log_mel")
        if scheme == "onnx":
            graph = onnx_graph.describe(name)
            return TeacherInfo(max(graph.layers), graph.width, graph.frame_rate_hz)
        if scheme == "python":
            shape = python_class.shape_of(name)
            return TeacherInfo(shape["num_layers"], shape["width"], shape["frame_rate_hz"])
        path = resolve_directory(name) / "config.json"
        with values_of(path):
            return _of_directory(read_json(path))
    except ConfigError as error:
        raise TeacherError(f"teacher {spec}: {error}") from error


def layers_of(spec: str) -> Sequence[int]:
    """All layers that a teacher can be asked for: of a graph those that its description names, of a class of the user's
    those from 1. Raises TeacherError."""
    info, (scheme, _, name) = describe_teacher(spec), spec.partition(":")
    if scheme == "onnx":
        return sorted(onnx_graph.describe(name).layers)
    return range(1 if scheme == "python" else 0, info.num_layers + 1)


def _of_directory(settings: Dict[str, Any]) -> TeacherInfo:
    family = names_hf.check_family(settings)
    if family == "whisper":
        return TeacherInfo(settings["encoder_layers"], settings["d_model"], WHISPER_RATE_HZ, has_silence=True)
    if family == names_custom.FAMILY:
        fields, rate_hz = names_custom.FIELDS, SAMPLE_RATE / settings["inputs_to_logits_ratio"]
    elif family in names_omniasr.FAMILIES:
        fields, rate_hz = names_omniasr.FIELDS, SAMPLE_RATE / math.prod(names_omniasr.conv_strides(settings))
        settings = names_omniasr.audio_settings(settings)
    elif family == "wav2vec2-bert":
        fields, rate_hz = names_hf.BERT_FIELDS, FBANK_RATE_HZ / names_hf.fbank_stack_of(settings)
    else:
        fields, rate_hz = names_hf.WAV2VEC_FIELDS, SAMPLE_RATE / math.prod(names_hf.conv_layers_of(settings)[2])
    ours = fields.to_ours(settings)
    return TeacherInfo(ours["layers"], ours["embed_dim"], rate_hz)
