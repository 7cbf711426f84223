"""examples/device/listen.py, with utterances in place of a microphone."""

import re
import subprocess
import sys

import numpy as np
import pytest
from commands import REPOSITORY

from examples.device.listen import PIECE, RATE, pieces, utterances

PAUSE = np.zeros(RATE, dtype=np.float32)


def listen(folder, samples, *options):
    """Lines that the terminal shows for samples [N] in [-1, 1]."""
    command = [sys.executable, "-m", "examples.device.listen", str(folder), *options]
    raw = (samples * 32767).astype("<i2").tobytes()
    done = subprocess.run(command, input=raw, cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


@pytest.mark.parametrize("options", [[], ["--int8"]])
def test_a_line_for_each_utterance(options, recogniser, exported, waveforms):
    ours = recogniser("conformer")
    heads = sorted(waveforms, key=len)[-2:]
    samples = np.concatenate([PAUSE, heads[0], PAUSE, heads[1], PAUSE])
    lines = listen(exported("conformer", "sherpa-onnx").tokens.parent, samples, *options)
    parts = list(utterances(iter(np.split(samples, range(PIECE, len(samples), PIECE)))))
    assert len(parts) == 2
    if not options:
        quantized = [(part * 32767).astype("<i2").astype(np.float32) / 32768 for part in parts]
        assert lines == [own.text for (own,) in ours.transcribe(quantized) if own.text]
    assert lines


@pytest.mark.parametrize(
    "shape, target, options, message",
    [
        ("stateless", "sherpa-onnx", [], "a transducer of whole utterances; .* --streaming"),
        ("conformer", "onnx", [], "no folder of colld export --to sherpa-onnx, of a CTC student"),
        (None, None, ["--int8"], "no folder of colld export --to sherpa-onnx --int8, of"),
    ],
)
def test_folders_that_cannot_listen_are_refused(shape, target, options, message, exported, tmp_path):
    folder = exported(shape, target).tokens.parent if shape else tmp_path
    command = [sys.executable, "-m", "examples.device.listen", str(folder), *options]
    done = subprocess.run(command, input="", cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and re.search(message, done.stderr.replace("\n", " "))


def test_utterances_lie_between_pauses():
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32)
    samples = np.concatenate([PAUSE, noise[:RATE], PAUSE, noise, PAUSE[: RATE // 5], noise[:RATE]])
    first, second = utterances(iter(np.split(samples, range(PIECE, len(samples), PIECE))))
    assert len(first) == pytest.approx(1.3 * RATE, abs=PIECE / 10)  # 0.1 s before it, 0.2 s behind it
    assert len(second) == pytest.approx(4.3 * RATE, abs=PIECE / 10)  # 0.2 s of silence end nothing
    assert not list(utterances(iter([PAUSE])))


def test_an_utterance_ends_at_some_time():
    noise = 0.1 * np.random.default_rng(0).standard_normal(50 * RATE).astype(np.float32)
    parts = list(utterances(iter(np.split(noise, range(PIECE, len(noise), PIECE)))))
    assert [len(part) / RATE for part in parts] == [20, 20, 10]


def test_samples_of_a_pipe(tmp_path):
    path = tmp_path / "raw"
    path.write_bytes(np.arange(-PIECE, 10, dtype="<i2").tobytes() + b"\0")  # half a sample at the end
    with path.open("rb") as source:
        first, second = pieces(source)
    assert len(first) == PIECE and first[0] == -PIECE / 32768
    assert len(second) == 10 and second[-1] == 9 / 32768
