"""Utterances through sherpa-onnx: `python sherpa_client.py FACTORY MODEL TOKENS A.npy ...`, each float32 [N] at 16 kHz.

Prints a JSON object for each: text, tokens, timestamps (seconds). It is run in a process of its own and by its path: a
model that sherpa-onnx does not like ends the process, and nothing but the client is to be imported.
"""

import json
import sys
from typing import List

import numpy as np
import sherpa_onnx


def main(factory: str, model: str, tokens: str, paths: List[str]) -> None:
    recognizer = getattr(sherpa_onnx.OfflineRecognizer, factory)(model=model, tokens=tokens)
    streams = []
    for path in paths:
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, np.load(path))
        streams.append(stream)
    recognizer.decode_streams(streams)
    for stream in streams:
        result = stream.result
        print(json.dumps({"text": result.text, "tokens": result.tokens, "timestamps": result.timestamps}))


if __name__ == "__main__":
    main(*sys.argv[1:4], sys.argv[4:])
