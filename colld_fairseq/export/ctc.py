"""CTC students: one graph from filterbanks or samples to log-probabilities."""

from dataclasses import replace
from typing import List, Mapping, NamedTuple

import numpy as np
import torch
from torch import Tensor

from colld_fairseq.data.inputs import StudentInput, normalize_waveform
from colld_fairseq.decoding.ctc import greedy_ctc
from colld_fairseq.errors import ConfigError
from colld_fairseq.export.clients import ClientModel
from colld_fairseq.export.comparison import (
    client_stage,
    difference_stage,
    files_stages,
    frames_stage,
    int8_client_stage,
    metadata_stages,
    run_in_runtime,
    text_stage,
)
from colld_fairseq.export.ctc_card import ctc_card
from colld_fairseq.export.ctc_graph import CtcGraph
from colld_fairseq.export.ctc_slots import example_of, slot_for
from colld_fairseq.export.eight_bits import EightBits
from colld_fairseq.export.family import Exported, ExportOptions, Family, Graph, Stage
from colld_fairseq.export.normalization import AfterClient
from colld_fairseq.export.symbols import client_symbols, never_emitted
from colld_fairseq.recogniser import Recogniser

MODEL = "model"


class Output(NamedTuple):
    """Of one utterance: log-probabilities [F, V], tokens of the best path, text."""

    log_probs: np.ndarray
    tokens: List[int]
    text: str


class Ctc(Family):
    """A student with a CTC layer in a slot of `ctc_slots`."""

    def __init__(self, recogniser: Recogniser, options: ExportOptions) -> None:
        super().__init__(recogniser, options)
        self.kind = slot_for(options.target, self.student)
        self.slot, self.client = self.kind.name, self.kind.client
        client_symbols(recogniser.vocabulary)  # refuses what no client would put together

    def graphs(self) -> List[Graph]:
        example, axes = example_of(self.kind, self.student)
        outputs = {"log_probs": {0: "batch", 1: "frames"} if self.kind.batched else {1: "frames"}}
        if self.kind.batched:
            outputs["log_probs_lengths"] = {0: "batch"}
        normalization = self.kind.normalization(self.student)
        module = CtcGraph(self.model, normalization, never_emitted(self.recogniser.vocabulary)).eval()
        metadata = {**self.own_metadata, **self.kind.metadata(self.student)}
        waveforms = self.student.config.input.kind == "waveform"
        return [
            Graph(
                MODEL,
                module,
                example,
                list(outputs),
                {**axes, **outputs},
                metadata,
                EightBits(every_operator=waveforms),
            )
        ]

    def card(self, sizes: Mapping[str, int]) -> str:
        return ctc_card(self.kind, self.student, sizes)

    def client_model(self, exported: Exported, int8: bool = False) -> ClientModel:
        """The folder as its client opens it."""
        arguments = {"model": str(exported.graph(MODEL, int8)), "tokens": str(exported.tokens)}
        return ClientModel(self.client, f"OfflineRecognizer.{self.kind.factory}", arguments)

    def stages(self, exported: Exported, waveform: np.ndarray) -> List[Stage]:
        ours = self.student_output(waveform)
        stages = [*files_stages(exported), *metadata_stages(exported), *self.runtime_stages(exported, waveform, ours)]
        if self.client:
            stages.append(client_stage(self.client_model(exported), waveform, ours.text))
        return stages + (self.int8_stages(exported, waveform, ours) if exported.int8 else [])

    def runtime_stages(self, exported: Exported, waveform: np.ndarray, ours: Output) -> List[Stage]:
        """Frames, log-probabilities and tokens of ONNX Runtime beside PyTorch's."""
        try:
            theirs = self.runtime_output(exported, waveform)
        except ConfigError as error:
            return [Stage("graph", False, str(error))]
        frames = frames_stage(len(theirs.log_probs), len(ours.log_probs))
        if not frames.same:
            return [frames]
        emitted = sorted(set(range(ours.log_probs.shape[1])) - never_emitted(self.recogniser.vocabulary))
        return [
            frames,
            difference_stage("log-probabilities", theirs.log_probs[:, emitted], ours.log_probs[:, emitted]),
            text_stage("text of ONNX Runtime", theirs.text, ours.text, theirs.tokens == ours.tokens),
        ]

    def int8_stages(self, exported: Exported, waveform: np.ndarray, ours: Output) -> List[Stage]:
        """8 bits may write other text now and then; the two runtimes should agree on it, up to single symbols."""
        try:
            theirs = self.runtime_output(exported, waveform, int8=True)
        except ConfigError as error:
            return [Stage("8 bits, ONNX Runtime", False, str(error))]
        other = "" if theirs.text == ours.text else f" (32 bits: {ours.text!r})"
        stages = [Stage("8 bits, ONNX Runtime", None, f"{theirs.text!r}{other}")]
        if self.client:
            stages.append(int8_client_stage(self.client_model(exported, int8=True), waveform, theirs.text))
        return stages

    def student_output(self, waveform: np.ndarray) -> Output:
        """What PyTorch makes of a waveform [N] at 16 kHz."""
        source = torch.from_numpy(self.recogniser.input(waveform))[None]
        with torch.no_grad():
            log_probs, frames = self.model.get_ctc_log_probs(source, torch.tensor([source.size(1)]))
        return self._best_path(log_probs[0, : int(frames)])

    def runtime_output(self, exported: Exported, waveform: np.ndarray, int8: bool = False) -> Output:
        """What ONNX Runtime makes of the same waveform, given what a client would give it. Raises ConfigError, see
        `run_in_runtime`."""
        source = self.graph_input(waveform)[None]
        given = [source, np.array([source.shape[1]], dtype=np.int64)] if self.kind.batched else [source]
        return self._best_path(torch.from_numpy(run_in_runtime(exported.graph(MODEL, int8), given)[0][0]))

    def graph_input(self, waveform: np.ndarray) -> np.ndarray:
        """Filterbanks [T, bins] or samples [N] as the client hands them to the graph."""
        plain = replace(self.recogniser.input.config, normalization="none", mean=[], std=[])
        source = StudentInput(plain)(waveform)
        return normalize_waveform(source, AfterClient.CLIENT_FLOOR) if self.slot == "omnilingual" else source

    def _best_path(self, log_probs: Tensor) -> Output:
        """Greedy decoding of [F, V], never-emitted symbols left out."""
        masked = log_probs.clone()
        masked[:, sorted(never_emitted(self.recogniser.vocabulary))] = -torch.inf
        (best,) = greedy_ctc(masked[None], torch.tensor([len(masked)]))
        return Output(log_probs.numpy(), best.tokens, self.recogniser.detokenize(best.tokens))
