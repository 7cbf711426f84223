"""What kinds of model (CTC, transducer, ...) have in common on their way into a folder; one module each says the rest.

A family is a recogniser bound to the place in a client that takes it: it names its graphs and other files, describes
them, and compares them with the recogniser. `folder.py` writes what a family says, `comparison.py` prints what it
sees, `families.py` knows all of them.
"""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Union

import numpy as np
from torch import Tensor, nn

from colld_fairseq.errors import ConfigError
from colld_fairseq.export.eight_bits import EightBits
from colld_fairseq.export.onnx_file import Axes, write_graph
from colld_fairseq.export.symbols import client_symbols, tokens_file
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.recogniser import TRAINED, Recogniser

FORMAT = "1"  # of our own metadata
ENCODER = "colld_encoder"  # its key for the configuration of the encoder
TARGET = "colld_target"  # its key for ExportOptions.target
SLOT = "colld_slot"  # its key for what a client calls this kind of model
STREAM = "colld_stream"  # its key for the chunk and left context of streams
WHISPER = "whisper"  # that of models whose log-mels, tokens and decoder are Whisper's
TARGETS = ("onnx", "sherpa-onnx", "onnx-asr")
TOKENS, CARD = "tokens.txt", "README.md"


@dataclass(frozen=True)
class ExportOptions:
    """What a user asks for; families refuse what they cannot give.

    Attributes:
        target: one of TARGETS.
        streaming: whether audio comes in pieces, of chunk_ms and with this left context (see `Recogniser.context`).
        src_lang, tgt_lang: of the utterance that an attention model is compared on; "": the recogniser's own.
    """

    target: str
    streaming: bool = False
    chunk_ms: int = 320
    left_context: str = TRAINED
    src_lang: str = ""
    tgt_lang: str = ""

    @classmethod
    def of_folder(cls, metadata: Mapping[str, str]) -> "ExportOptions":
        """Those that a folder was exported with, by the metadata of its encoder."""
        stream = json.loads(metadata.get(STREAM, "{}"))
        return cls(metadata.get(TARGET, ""), bool(stream), **stream)


@dataclass(frozen=True)
class Graph:
    """One graph of a folder.

    Attributes:
        name: of its file, without .onnx; with a folder before it where the client wants one.
        module: in eval mode; its arguments are the inputs, in their order.
        inputs: name -> example to trace with.
        outputs: their names.
        axes: of inputs and outputs, see `onnx_file.Axes`.
        metadata: keys and values in the file.
        eight_bits: how it is quantized.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    axes: Axes
    metadata: Mapping[str, str] = field(default_factory=dict)
    eight_bits: EightBits = EightBits()

    def write(self, path: Path, exporter: str) -> None:
        """Into a file, without metadata; exporter: see `onnx_file.write_graph`."""
        write_graph(path, self.module, self.inputs, self.outputs, self.axes, exporter)


@dataclass(frozen=True)
class BuiltGraph:
    """A graph that is made without torch.

    Attributes:
        name, metadata, eight_bits: as of `Graph`.
        model: of ONNX.
    """

    name: str
    model: Any
    metadata: Mapping[str, str] = field(default_factory=dict)
    eight_bits: EightBits = EightBits()

    def write(self, path: Path, exporter: str) -> None:
        """Into a file, without metadata."""
        path.write_bytes(self.model.SerializeToString())


class Stage(NamedTuple):
    """One step of the way to the text: whether it is the student's (None: it need not be), and what there is to say."""

    name: str
    same: Optional[bool]
    detail: str


class Family(ABC):
    """A recogniser as some client's model.

    Attributes:
        recogniser: whose single model is exported.
        slot: what the client calls this kind of model.
        client: package that runs it, "" for none.
        exporters: of torch that write the graphs as they are, the usual one first; see `onnx_file.write_graph`.
    """

    slot: str
    client: str = ""
    exporters: Sequence[str] = ("dynamo", "torchscript")

    def __init__(self, recogniser: Recogniser, options: ExportOptions) -> None:
        """Raises ConfigError where the client would give other text."""
        if len(recogniser.models) > 1:
            raise ConfigError(
                "several checkpoints are an ensemble, a folder holds one model: average them first (`colld average`)"
            )
        self.recogniser, self.options = recogniser, options
        self.model = recogniser.models[0].float()

    def exporter(self, asked_for: str = "") -> str:
        """The exporter to use, "": the usual one. Raises ConfigError for one that would write other graphs."""
        if asked_for and asked_for not in self.exporters:
            raise ConfigError(
                f"--exporter {asked_for} writes graphs of this model that give other text, or fails: leave it out"
            )
        return asked_for or self.exporters[0]

    @property
    def student(self) -> StudentEncoder:
        """The encoder."""
        return self.model.encoder.student

    @property
    def own_metadata(self) -> Dict[str, str]:
        """What we write into the graph that holds the encoder."""
        config = json.dumps(self.student.config.to_dict())
        return {"colld_format": FORMAT, TARGET: self.options.target, SLOT: self.slot, ENCODER: config}

    @property
    def task_settings(self) -> Mapping[str, Any]:
        """Options of the task that belong to what is exported."""
        return self.recogniser.settings["task"]

    def without_client(self) -> "Family":
        """The same, whose stages are those of the graphs alone."""
        self.client = ""
        return self

    @abstractmethod
    def graphs(self) -> List[Union[Graph, BuiltGraph]]:
        """What is exported."""

    def notes(self) -> List[str]:
        """What users are to know, a sentence each: in the card, and printed."""
        return []

    def files(self) -> Dict[str, str]:
        """Other files: name -> content."""
        return {TOKENS: tokens_file(client_symbols(self.recogniser.vocabulary))}

    @abstractmethod
    def card(self, sizes: Mapping[str, int]) -> str:
        """README.md; sizes: path of an .onnx file in the folder -> bytes."""

    @abstractmethod
    def stages(self, exported: "Exported", waveform: np.ndarray) -> List[Stage]:
        """From the files to the client's text of a waveform [N] at 16 kHz: what is the recogniser's, and what is not.
        Those after the first that is not may be wrong because of it."""


class Exported(NamedTuple):
    """A folder and what it is the export of."""

    family: Family
    folder: Path

    def graph(self, name: str, int8: bool = False) -> Path:
        """The file of a graph."""
        return self.folder / graph_file(name, int8)

    @property
    def tokens(self) -> Path:
        return self.folder / TOKENS

    @property
    def int8(self) -> bool:
        """Whether weights in 8 bits are there, too."""
        return any(self.folder.rglob("*.int8.onnx"))

    @property
    def precisions(self) -> List[bool]:
        """Values of `int8` that are there."""
        return [False, True] if self.int8 else [False]


def graph_file(name: str, int8: bool = False) -> str:
    """File name of a graph."""
    return f"{name}.int8.onnx" if int8 else f"{name}.onnx"


def display(package: str) -> str:
    """A client's name as it writes it itself."""
    return package.replace("_", "-")


def first_difference(stages: Sequence[Stage]) -> Optional[Stage]:
    """The stage to look at; None where all is the same."""
    return next((stage for stage in stages if stage.same is False), None)
