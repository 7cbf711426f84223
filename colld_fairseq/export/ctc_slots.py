"""Which kinds of CTC model a client knows, and which students one of them takes.

A student goes where the client computes what it was trained on; anything else would give wrong text without a message,
and is refused.
"""

from dataclasses import dataclass
from typing import Dict, Mapping, Tuple

import torch
from torch import Tensor, nn

from colld_fairseq.constants import NUM_BINS, SAMPLE_RATE
from colld_fairseq.errors import ConfigError
from colld_fairseq.export.normalization import AfterClient, normalization_of
from colld_fairseq.modules.encoder import StudentEncoder

FBANK_RATE_HZ = 100.0
ZIPFORMER_RATE_HZ = 25.0  # which sherpa-onnx assumes in its slot for CTC models of icefall


@dataclass(frozen=True)
class Slot:
    """A kind of model that a client knows.

    Attributes:
        name: what the client calls it; "ctc" for a graph that no client is meant to run.
        batched: the graph takes padded batches with their lengths; else one utterance.
        client: package that runs it, "" for none.
        factory: of `sherpa_onnx.OfflineRecognizer`, or of onnx_asr.
        flag: of the client's programs on the command line.
    """

    name: str
    batched: bool = True
    client: str = ""
    factory: str = ""
    flag: str = ""

    def normalization(self, student: StudentEncoder) -> nn.Module:
        """What the graph does to its input before the encoder."""
        if self.name == "omnilingual":
            return AfterClient(student.config.input.variance_floor)
        return normalization_of(student.config.input)

    def metadata(self, student: StudentEncoder) -> Dict[str, str]:
        """What the client reads in the file. It may not normalize: the graph does."""
        if self.name == "zipformer2_ctc":
            return {"model_type": self.name}
        if self.name != "fire_red_asr_ctc":
            return {}
        return {
            "model_type": "fire-red-asr-2-ctc",
            "cmvn_mean": ",".join(["0"] * NUM_BINS),
            "cmvn_inv_stddev": ",".join(["1"] * NUM_BINS),
            "subsampling_factor": str(round(FBANK_RATE_HZ / student.frame_rate_hz)),
        }


PLAIN = Slot("ctc")
FIRE_RED = Slot(
    "fire_red_asr_ctc",
    client="sherpa_onnx",
    factory="from_fire_red_asr_ctc",
    flag="--fire-red-asr-ctc",
)
ZIPFORMER = Slot(
    "zipformer2_ctc",
    client="sherpa_onnx",
    factory="from_zipformer_ctc",
    flag="--zipformer-ctc-model",
)
ONNX_ASR = Slot("kaldi-rnnt", client="onnx_asr", factory="load_model")
OMNILINGUAL = Slot(
    "omnilingual",
    batched=False,
    client="sherpa_onnx",
    factory="from_omnilingual_asr_ctc",
    flag="--omnilingual-asr-model",
)


def slot_for(target: str, student: StudentEncoder) -> Slot:
    """The slot of a CTC student for `--to target`. ConfigError with the reason where the client would go wrong."""
    kind = student.config.input.kind
    if kind == "log_mel":
        raise ConfigError(
            "this student takes Whisper's log-mels, which no client computes for CTC: export is for"
            " students of filterbanks and of waveforms"
        )
    if target == "onnx":
        return PLAIN
    if target == "onnx-asr":
        return onnx_asr_slot(student)
    return {"fbank": fbank_slot, "waveform": waveform_slot}[kind](student)


def fbank_slot(student: StudentEncoder) -> Slot:
    """sherpa-onnx's slot whose filterbanks are those of `InputConfig.fbank`."""
    given = student.config.input
    slot = {"kaldi": FIRE_RED, "icefall": ZIPFORMER}[given.fbank]
    if given.bins != NUM_BINS:
        raise ConfigError(
            f"sherpa-onnx computes filterbanks of {NUM_BINS} bins for {slot.name}, this student takes {given.bins}:"
            " take --to onnx"
        )
    if slot is ZIPFORMER and student.frame_rate_hz != ZIPFORMER_RATE_HZ:
        raise ConfigError(
            f"sherpa-onnx counts 40 ms for each frame of {slot.name}, its CTC model with filterbanks of kind 'icefall';"
            f" this student's are {1000 / student.frame_rate_hz:g} ms: its times would be wrong. Take --to onnx, or a"
            f" student of {ZIPFORMER_RATE_HZ:g} frames per second (--front-end conv2d, or --fbank-stack 4)"
        )
    return slot


def onnx_asr_slot(student: StudentEncoder) -> Slot:
    """Its kind of model whose filterbanks are icefall's; those for CTC compute NeMo's and GigaAM's, or take 8 kHz."""
    given, elsewhere = student.config.input, "take --to sherpa-onnx or --to onnx"
    if given.kind != "fbank":
        raise ConfigError(f"onnx-asr has no model of waveforms at 16 kHz, which this student takes: {elsewhere}")
    if given.fbank != "icefall" or given.bins != NUM_BINS:
        raise ConfigError(
            f"onnx-asr computes NeMo's and GigaAM's features for CTC, and icefall's filterbanks of {NUM_BINS} bins for"
            f" what is dressed as a transducer; this student takes {given} of {given.bins} bins: its text would be"
            f" another. Train with --fbank icefall, or {elsewhere}"
        )
    return ONNX_ASR


def waveform_slot(student: StudentEncoder) -> Slot:
    """sherpa-onnx normalizes waveforms, and counts 20 ms for a frame."""
    if student.config.input.normalization != "utterance":
        raise ConfigError(
            "sherpa-onnx normalizes the waveform of each utterance, which this student takes as it is: its text would"
            " be another. Train with --normalize-waveform, or take --to onnx"
        )
    if student.frame_rate_hz != 50:
        raise ConfigError(
            f"sherpa-onnx counts 20 ms for each frame of a waveform model, this student's are"
            f" {1000 / student.frame_rate_hz:g} ms: its times would be wrong. Take --to onnx"
        )
    return OMNILINGUAL


def example_of(slot: Slot, student: StudentEncoder) -> Tuple[Dict[str, Tensor], Mapping[str, Mapping[int, str]]]:
    """Inputs to trace a graph with, by name, and which of their dimensions may have any size."""
    count = 2 if slot.batched else 1
    if student.config.input.kind == "waveform":
        name, source = "waveform", 0.1 * torch.randn(count, 2 * SAMPLE_RATE)
    else:
        name, source = "features", torch.randn(count, 200, student.config.input.bins)
    axes = {name: {0: "batch", 1: "length"} if slot.batched else {1: "length"}}
    if not slot.batched:
        return {name: source}, axes
    lengths = torch.tensor([source.size(1), source.size(1) * 3 // 4])
    return {name: source, "lengths": lengths}, {**axes, "lengths": {0: "batch"}}
