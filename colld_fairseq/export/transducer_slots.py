"""Which kinds of transducer a client knows, and which students one of them takes."""

from dataclasses import dataclass

from colld_fairseq.constants import NUM_BINS
from colld_fairseq.errors import ConfigError
from colld_fairseq.export.family import ExportOptions, display
from colld_fairseq.modules.encoder import StudentEncoder

SHERPA_RATE_HZ = 25.0  # which sherpa-onnx assumes of transducers


@dataclass(frozen=True)
class Slot:
    """A kind of transducer that a client knows.

    Attributes:
        name: what the client calls it; "transducer" also for graphs that no client is meant to run.
        client: package that runs it, "" for none.
        factory: the client's function that opens it.
        one_label: whether the client emits one label per frame at most, whatever the model was trained with.
        several_decoders: whether a user may choose among decoders of several languages.
        folder: in which the client looks for the graphs, with / at the end.
    """

    name: str
    client: str = ""
    factory: str = ""
    one_label: bool = False
    several_decoders: bool = True
    folder: str = ""


PLAIN = Slot("transducer")
PLAIN_STREAMING = Slot("conformer")
OFFLINE = Slot("transducer", "sherpa_onnx", "OfflineRecognizer.from_transducer", one_label=True)
ONLINE = Slot("conformer", "sherpa_onnx", "OnlineRecognizer.from_transducer", one_label=True)
KALDI = Slot("kaldi-rnnt", "onnx_asr", "load_model", several_decoders=False, folder="model/")


def slot_for(options: ExportOptions, student: StudentEncoder) -> Slot:
    """The slot of a transducer. ConfigError with the reason where the client would go wrong."""
    if student.config.input.kind == "log_mel":
        raise ConfigError("this student takes Whisper's log-mels, which no client computes for transducers")
    if options.target == "onnx":
        return PLAIN_STREAMING if options.streaming else PLAIN
    if options.target == "onnx-asr":
        if options.streaming:
            raise ConfigError("onnx-asr takes whole utterances: leave --streaming out, or take --to sherpa-onnx")
        check_features(KALDI, student)
        return KALDI
    slot = ONLINE if options.streaming else OFFLINE
    check_features(slot, student)
    if student.frame_rate_hz != SHERPA_RATE_HZ:
        raise ConfigError(
            f"sherpa-onnx counts 40 ms for each frame of a transducer, this student's are"
            f" {1000 / student.frame_rate_hz:g} ms: its times would be wrong. Take --to onnx, or a student of"
            f" {SHERPA_RATE_HZ:g} frames per second (--front-end conv2d, or --fbank-stack 4)"
        )
    return slot


def check_features(slot: Slot, student: StudentEncoder) -> None:
    """Raises ConfigError where the client computes other features. Online, sherpa-onnx can be told of both kinds of
    filterbanks (in Python)."""
    given, client = student.config.input, display(slot.client)
    if given.kind != "fbank":
        raise ConfigError(f"{client} computes filterbanks for transducers, this student takes {given}: take --to onnx")
    if given.bins != NUM_BINS:
        raise ConfigError(
            f"{client} computes filterbanks of {NUM_BINS} bins for transducers, this student takes {given.bins}: take"
            " --to onnx"
        )
    if given.fbank != "icefall" and slot is not ONLINE:
        raise ConfigError(
            f"{client} computes icefall's filterbanks for transducers, this student takes {given}: its text would be"
            " another. Train with --fbank icefall, or take --to onnx"
        )
