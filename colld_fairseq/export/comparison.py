"""Stages that every family compares: symbols, metadata, what ONNX Runtime computes, text."""

import json
from pathlib import Path
from typing import Any, Callable, List, Sequence

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein

from colld_fairseq.checkpoints.onnx_reading import read_metadata
from colld_fairseq.errors import ConfigError
from colld_fairseq.export.clients import ClientError, ClientModel, run_client
from colld_fairseq.export.family import ENCODER, Exported, Stage, display
from colld_fairseq.modules.input_config import InputConfig

# What two runtimes may write differently with 8 bits: this share of the characters, or so many. The most that was seen
# on 209 prompts of five languages was 6 % (RESULTS.md, small students on the device).
INT8_SHARE, INT8_CHARACTERS = 0.1, 2
TOLERANCE = 1e-3  # of log-probabilities: single precision of another runtime; it is 1e-5 on most utterances


def run_in_runtime(model: Path, given: Sequence[np.ndarray]) -> List[np.ndarray]:
    """Outputs of a graph for inputs in its order. Raises ConfigError where ONNX Runtime does not take the file, or the
    file does not take that."""
    return Session(model)(*given)


class Session:
    """A graph in ONNX Runtime: inputs in its order -> outputs. Raises ConfigError as `run_in_runtime`.

    Inputs are arrays, or what `values` gave.
    """

    def __init__(self, model: Path) -> None:
        import onnxruntime

        self.model, options = model, onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of the runtime, of several kinds
            raise ConfigError(f"{model} does not load in ONNX Runtime: {error}") from error
        self.inputs = [value.name for value in self._session.get_inputs()]

    def __call__(self, *given: Any) -> List[np.ndarray]:
        return [value.numpy() for value in self.values(*given)]

    def values(self, *given: Any) -> List[Any]:
        """Outputs as ONNX Runtime holds them (OrtValue), to be given to the next step without a copy."""
        import onnxruntime

        if len(self.inputs) != len(given):
            raise ConfigError(f"{self.model} takes {', '.join(self.inputs)}; it is given {len(given)} inputs")
        values = [
            onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(one, order="C")) if isinstance(one, np.ndarray) else one
            for one in given
        ]
        try:
            return list(self._session.run_with_ort_values(None, dict(zip(self.inputs, values))))
        except Exception as error:
            raise ConfigError(f"{self.model} does not run in ONNX Runtime: {error}") from error


def files_stages(exported: Exported) -> List[Stage]:
    """Files of characters beside what would be written now: tokens.txt."""
    stages = []
    for name, content in exported.family.files().items():
        lines = (exported.folder / name).read_text(encoding="utf-8").splitlines()
        expected = content.splitlines()
        pairs = zip(lines + [""] * len(expected), expected)
        wrong = next(
            (f"line {row} is {line!r}, not {own!r}" for row, (line, own) in enumerate(pairs, 1) if line != own), ""
        )
        if not wrong and len(lines) != len(expected):
            wrong = f"{len(lines)} lines, not {len(expected)}"
        stages.append(Stage(name, not wrong, wrong or f"{len(lines)} lines"))
    return stages


def metadata_stages(exported: Exported) -> List[Stage]:
    """What the graphs' files say of features and for the client."""
    stages = []
    for graph in exported.family.graphs():
        for int8 in exported.precisions:
            path = exported.graph(graph.name, int8)
            values, expected = read_metadata(path), dict(graph.metadata)
            if ENCODER in expected:
                stages.append(input_stage(path.name, values.get(ENCODER, "{}"), expected.pop(ENCODER)))
            wrong = [name for name, value in expected.items() if values.get(name) != value]
            detail = (
                f"{wrong[0]} is {values.get(wrong[0])!r:.60}, not {expected[wrong[0]]!r:.60}" if wrong else "complete"
            )
            stages.append(Stage(f"metadata of {path.name}", not wrong, detail))
    return stages


def input_stage(name: str, theirs: str, ours: str) -> Stage:
    """The input in two encoders' configurations."""
    there, own = json.loads(theirs).get("input"), json.loads(ours)["input"]
    same, says = there == own, InputConfig.from_dict(own)
    return Stage(f"input of {name}", same, str(says) if same else f"made for {there}, not for {says}")


def client_stage(model: ClientModel, waveform: np.ndarray, expected: str) -> Stage:
    """The text of the real client."""
    return _client_stage(f"text of {display(model.package)}", model, waveform, expected, text_stage)


def int8_client_stage(model: ClientModel, waveform: np.ndarray, expected: str) -> Stage:
    """The text of the real client with weights of 8 bits, beside that of ONNX Runtime."""
    return _client_stage(f"8 bits, {display(model.package)}", model, waveform, expected, int8_text_stage)


def _client_stage(
    name: str, model: ClientModel, waveform: np.ndarray, expected: str, stage: Callable[[str, str, str], Stage]
) -> Stage:
    try:
        (result,) = run_client(model, [waveform])
    except ClientError as error:
        return Stage(name, False, str(error))
    return stage(name, result.text.strip(), expected)


def text_stage(name: str, theirs: str, ours: str, same_tokens: bool = True) -> Stage:
    same = theirs == ours and same_tokens
    return Stage(name, same, repr(theirs) if same else f"{theirs!r}, PyTorch {ours!r}")


def int8_text_stage(name: str, theirs: str, runtime: str) -> Stage:
    """Activations are rounded to 8 bits as well: features that differ by 1e-6, as two implementations' do, give
    log-probabilities that differ by some 0.04, and single symbols of a doubtful hypothesis change."""
    allowed = max(INT8_CHARACTERS, INT8_SHARE * max(len(theirs), len(runtime)))
    same = Levenshtein.distance(theirs, runtime) <= allowed
    remark = "" if theirs == runtime else f", ONNX Runtime {runtime!r}" + (": as 8 bits round" if same else "")
    return Stage(name, same, f"{theirs!r}{remark}")


def difference_stage(name: str, theirs: np.ndarray, ours: np.ndarray) -> Stage:
    """Two arrays of one shape, within the tolerance."""
    difference = np.abs(theirs - ours).max(initial=0.0)
    return Stage(name, bool(difference <= TOLERANCE), f"largest difference {difference:.1e}")


def frames_stage(theirs: int, ours: int) -> Stage:
    return Stage("frames", theirs == ours, f"{theirs}" if theirs == ours else f"{theirs}, PyTorch {ours}")
