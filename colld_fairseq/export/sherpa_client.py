"""Utterances through sherpa-onnx: `python sherpa_client.py FACTORY ARGUMENTS A.npy ...`, each float32 [N] at 16 kHz.

FACTORY is a function of the package, OfflineRecognizer.from_transducer say, ARGUMENTS its keywords as JSON.
Prints a JSON object for each: text, tokens, timestamps (seconds). It is run in a process of its own and by its path: a
model that sherpa-onnx does not like ends the process, and nothing but the client is to be imported.
"""

import json
import operator
import sys
from typing import Any, Iterator, List, Tuple

import numpy as np
import sherpa_onnx

Result = Tuple[str, List[str], List[float]]


def main(factory: str, arguments: str, paths: List[str]) -> None:
    recognizer = operator.attrgetter(factory)(sherpa_onnx)(**json.loads(arguments))
    streams = []
    for path in paths:
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, np.load(path))
        streams.append(stream)
    results = online if isinstance(recognizer, sherpa_onnx.OnlineRecognizer) else offline
    for text, tokens, timestamps in results(recognizer, streams):
        print(json.dumps({"text": text, "tokens": tokens, "timestamps": timestamps}))


def offline(recognizer: Any, streams: List[Any]) -> Iterator[Result]:
    recognizer.decode_streams(streams)
    for stream in streams:
        yield stream.result.text, tokens_of(stream.result), stream.result.timestamps


def tokens_of(result: Any) -> List[str]:
    """Tokens as text; none where they are parts of characters, which Python cannot be given (Whisper)."""
    try:
        return result.tokens
    except UnicodeDecodeError:
        return []


def online(recognizer: Any, streams: List[Any]) -> Iterator[Result]:
    for stream in streams:
        stream.input_finished()
    while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
        recognizer.decode_streams(ready)
    for stream in streams:
        yield recognizer.get_result(stream), recognizer.tokens(stream), recognizer.timestamps(stream)


if __name__ == "__main__":
    main(*sys.argv[1:3], sys.argv[3:])
