"""An exported folder beside the student it was made of, stage by stage: what differs first is named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from colld_fairseq.data.inputs import StudentInput, normalize_waveform
from colld_fairseq.decoding.ctc import greedy_ctc
from colld_fairseq.errors import ConfigError
from colld_fairseq.export.clients import ClientError, run_client
from colld_fairseq.export.folder import Exported
from colld_fairseq.export.normalization import AfterClient
from colld_fairseq.export.onnx_file import read_metadata
from colld_fairseq.export.slots import Slot
from colld_fairseq.export.symbols import client_symbols, never_emitted, tokens_file
from colld_fairseq.recogniser import Recogniser

TOLERANCE = 1e-3  # of log-probabilities: single precision of another runtime; it is 1e-5 on most utterances


class Stage(NamedTuple):
    """One step of the way to the text: whether it is the student's, and what is to be said of it."""

    name: str
    same: bool
    detail: str


class Output(NamedTuple):
    """Of one utterance: log-probabilities [F, V], tokens of the best path, text."""

    log_probs: np.ndarray
    tokens: List[int]
    text: str


def student_output(recogniser: Recogniser, waveform: np.ndarray) -> Output:
    """What PyTorch makes of a waveform [N] at 16 kHz."""
    source = torch.from_numpy(recogniser.input(waveform))[None]
    with torch.no_grad():
        log_probs, frames = recogniser.models[0].get_ctc_log_probs(source, torch.tensor([source.size(1)]))
    return best_path(recogniser, log_probs[0, : int(frames)])


def best_path(recogniser: Recogniser, log_probs: Tensor) -> Output:
    """Greedy decoding of [F, V], never-emitted symbols left out."""
    masked = log_probs.clone()
    masked[:, sorted(never_emitted(recogniser.vocabulary))] = -torch.inf
    (best,) = greedy_ctc(masked[None], torch.tensor([len(masked)]))
    return Output(log_probs.numpy(), best.tokens, recogniser.detokenize(best.tokens))


def runtime_output(recogniser: Recogniser, model: Path, slot: Slot, waveform: np.ndarray) -> Output:
    """What ONNX Runtime makes of the same waveform with a graph, given what a client would give it. Raises ConfigError
    where it does not take the file, or the file does not take that."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    source = graph_input(recogniser, slot, waveform)[None]
    given = [source, np.array([source.shape[1]], dtype=np.int64)] if slot.batched else [source]
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        if len(names) != len(given):
            raise ConfigError(f"{model} takes {', '.join(names)}; {slot.name} gives {len(given)} inputs")
        outputs = session.run(None, dict(zip(names, given)))
    except Exception as error:  # of the runtime, of several kinds
        raise ConfigError(f"{model} does not run in ONNX Runtime: {error}") from error
    return best_path(recogniser, torch.from_numpy(outputs[0][0]))


def graph_input(recogniser: Recogniser, slot: Slot, waveform: np.ndarray) -> np.ndarray:
    """Filterbanks [T, bins] or samples [N] as the slot's client hands them to the graph."""
    plain = replace(recogniser.input.config, normalization="none", mean=[], std=[])
    source = StudentInput(plain)(waveform)
    return normalize_waveform(source, AfterClient.CLIENT_FLOOR) if slot.name == "omnilingual" else source


def compare(recogniser: Recogniser, exported: Exported, waveform: np.ndarray) -> List[Stage]:
    """Stages from the files to the client's text. The first one that is not the same is what to look at; those after
    it may be wrong because of it."""
    ours = student_output(recogniser, waveform)
    stages = [symbols_stage(recogniser, exported.tokens), *metadata_stages(recogniser, exported)]
    stages += runtime_stages(recogniser, exported.model, exported.slot, waveform, ours)
    if exported.slot.client:
        stages.append(client_stage(exported, exported.model, waveform, ours))
    if exported.int8 is not None:
        stages += int8_stages(recogniser, exported, waveform, ours)
    return stages


def symbols_stage(recogniser: Recogniser, path: Path) -> Stage:
    """tokens.txt beside the vocabulary."""
    lines = path.read_text(encoding="utf-8").splitlines()
    expected = tokens_file(client_symbols(recogniser.vocabulary)).splitlines()
    pairs = zip(lines + [""] * len(expected), expected)
    wrong = next(
        (f"line {row} is {line!r}, not {own!r}" for row, (line, own) in enumerate(pairs, 1) if line != own), ""
    )
    if not wrong and len(lines) != len(expected):
        wrong = f"{len(lines)} lines, not {len(expected)}"
    return Stage("tokens.txt", not wrong, wrong or f"{len(lines)} symbols")


def metadata_stages(recogniser: Recogniser, exported: Exported) -> List[Stage]:
    """What the files say of features and for the client."""
    student = recogniser.models[0].encoder.student
    own = student.config.input
    stages = []
    for path in filter(None, (exported.model, exported.int8)):
        values = read_metadata(path)
        there = json.loads(values.get("colld_encoder", "{}")).get("input")
        same = there == own.to_dict()
        stages.append(Stage(f"input of {path.name}", same, str(own) if same else f"made for {there}, not for {own}"))
        expected = {"colld_slot": exported.slot.name, **exported.slot.metadata(student)}
        wrong = [name for name, value in expected.items() if values.get(name) != value]
        detail = f"{wrong[0]} is {values.get(wrong[0])!r:.60}, not {expected[wrong[0]]!r:.60}" if wrong else "complete"
        stages.append(Stage(f"metadata of {path.name}", not wrong, detail))
    return stages


def runtime_stages(recogniser: Recogniser, model: Path, slot: Slot, waveform: np.ndarray, ours: Output) -> List[Stage]:
    """Frames, log-probabilities and tokens of ONNX Runtime beside PyTorch's."""
    try:
        theirs = runtime_output(recogniser, model, slot, waveform)
    except ConfigError as error:
        return [Stage("graph", False, str(error))]
    frames = Stage("frames", len(theirs.log_probs) == len(ours.log_probs), f"{len(theirs.log_probs)}")
    if not frames.same:
        return [frames._replace(detail=f"{len(theirs.log_probs)}, PyTorch {len(ours.log_probs)}")]
    emitted = sorted(set(range(ours.log_probs.shape[1])) - never_emitted(recogniser.vocabulary))
    difference = np.abs(theirs.log_probs - ours.log_probs)[:, emitted].max(initial=0.0)
    return [
        frames,
        Stage("log-probabilities", bool(difference <= TOLERANCE), f"largest difference {difference:.1e}"),
        text_stage("text of ONNX Runtime", theirs.text, ours.text, theirs.tokens == ours.tokens),
    ]


def client_stage(exported: Exported, model: Path, waveform: np.ndarray, ours: Optional[Output]) -> Stage:
    """The text of the real client."""
    name = f"text of {exported.slot.client.replace('_', '-')}"
    try:
        (result,) = run_client(exported.slot, model, exported.tokens, [waveform])
    except ClientError as error:
        return Stage(name, False, str(error))
    return text_stage(name, result.text.strip(), ours.text)


def int8_stages(recogniser: Recogniser, exported: Exported, waveform: np.ndarray, ours: Output) -> List[Stage]:
    """8 bits may write other text now and then; the two runtimes should agree on it."""
    try:
        theirs = runtime_output(recogniser, exported.int8, exported.slot, waveform)
    except ConfigError as error:
        return [Stage("8 bits, ONNX Runtime", False, str(error))]
    other = "" if theirs.text == ours.text else f" (32 bits: {ours.text!r})"
    stages = [Stage("8 bits, ONNX Runtime", True, f"{theirs.text!r}{other}")]
    if exported.slot.client:
        stage = client_stage(exported, exported.int8, waveform, theirs)
        stages.append(stage._replace(name=f"8 bits, {exported.slot.client.replace('_', '-')}"))
    return stages


def text_stage(name: str, theirs: str, ours: str, same_tokens: bool = True) -> Stage:
    same = theirs == ours and same_tokens
    return Stage(name, same, repr(theirs) if same else f"{theirs!r}, PyTorch {ours!r}")


def first_difference(stages: Sequence[Stage]) -> Optional[Stage]:
    """The stage to look at; None where all is the same."""
    return next((stage for stage in stages if not stage.same), None)
