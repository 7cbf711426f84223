"""Hypotheses and times of sherpa-onnx, for exported_students.py: FACTORY ARGUMENTS TAIL_SECONDS ROUNDS A.npy ...

Each file is an utterance, float32 [N] at 16 kHz. They are recognized one after another, as often as ROUNDS says, and
what is printed is JSON: {"hypotheses": of each utterance, "seconds": processor time of each round}. A process of its
own: a model that sherpa-onnx does not like ends the process.
"""

import json
import operator
import sys
import time
from typing import List

import numpy as np
import sherpa_onnx


def main(factory: str, arguments: str, tail_seconds: str, rounds: str, paths: List[str]) -> None:
    recognizer = operator.attrgetter(factory)(sherpa_onnx)(**json.loads(arguments))
    recognize = online if isinstance(recognizer, sherpa_onnx.OnlineRecognizer) else offline
    tail = np.zeros(round(float(tail_seconds) * 16000), dtype=np.float32)
    waveforms = [np.concatenate((np.load(path), tail)) for path in paths]
    hypotheses, seconds = [], []
    for _ in range(int(rounds)):
        start = time.process_time()
        hypotheses = [recognize(recognizer, waveform) for waveform in waveforms]
        seconds.append(time.process_time() - start)
    print(json.dumps({"hypotheses": hypotheses, "seconds": seconds}))


def offline(recognizer: sherpa_onnx.OfflineRecognizer, waveform: np.ndarray) -> str:
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, waveform)
    recognizer.decode_stream(stream)
    return stream.result.text


def online(recognizer: sherpa_onnx.OnlineRecognizer, waveform: np.ndarray) -> str:
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, waveform)
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    return recognizer.get_result(stream)


if __name__ == "__main__":
    main(*sys.argv[1:5], sys.argv[5:])
