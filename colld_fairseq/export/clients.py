"""The real client on an exported model, in a process of its own: a model that it does not like ends its process."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, List, Mapping, NamedTuple, Sequence

import numpy as np

from colld_fairseq.errors import ColldError

SCRIPTS = {"sherpa_onnx": "sherpa_client.py", "onnx_asr": "onnx_asr_client.py"}  # by package
TAIL_SECONDS = 0.66  # of silence that programs of sherpa-onnx append to a stream, to fill its last chunk
SECONDS_TO_LOAD, TIMES_REAL_TIME = 120.0, 20.0  # what a client may take


class ClientModel(NamedTuple):
    """A model as a client opens it: `package.factory(**arguments)`, arguments that JSON can carry.

    `tail_seconds` of silence follow each utterance.
    """

    package: str
    factory: str
    arguments: Mapping[str, Any]
    tail_seconds: float = 0.0


class ClientError(ColldError):
    """The client ended without a result; says what it said."""


class ClientResult(NamedTuple):
    """Text, its tokens and the times in seconds when each begins."""

    text: str
    tokens: List[str]
    timestamps: List[float]


def run_client(model: ClientModel, waveforms: Sequence[np.ndarray]) -> List[ClientResult]:
    """What the client writes for waveforms [N] at 16 kHz, all of them in one batch. Raises ClientError."""
    script = Path(__file__).with_name(SCRIPTS[model.package])
    files = ", ".join(value for value in map(str, model.arguments.values()) if value.endswith(".onnx"))
    seconds = sum(len(waveform) for waveform in waveforms) / 16000
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{index}.npy" for index in range(len(waveforms))]
        for path, waveform in zip(paths, waveforms):
            np.save(path, np.pad(waveform, (0, round(model.tail_seconds * 16000))))
        command = [sys.executable, str(script), model.factory, json.dumps(dict(model.arguments)), *paths]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS_TO_LOAD + TIMES_REAL_TIME * seconds
            )
        except subprocess.TimeoutExpired as error:
            raise ClientError(
                f"{model.package} did not come to an end within {error.timeout:.0f} s on {files}"
            ) from error
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or len(lines) < len(waveforms):
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        last = " / ".join(said[-3:]) or "it said nothing"
        raise ClientError(f"{model.package} ended with exit code {done.returncode} on {files}: {last}")
    return [ClientResult(**json.loads(line)) for line in lines]
