"""A terminal that listens: raw samples (16 kHz, mono, 16 bits) on standard input, text on standard output.

    arecord -q -t raw -f S16_LE -r 16000 -c 1 | python -m examples.device.listen models/stream

FOLDER is one that `colld export --to sherpa-onnx` wrote. A streaming transducer writes while one speaks; a model of
whole utterances (CTC) writes after each pause. Needs numpy, onnxruntime and sherpa-onnx, nothing else of this project.
"""

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import BinaryIO, Callable, Dict, Iterator, List

import numpy as np
import onnxruntime
import sherpa_onnx

RATE = 16000
PIECE = RATE // 10  # samples read at once: 100 ms
PAUSE_SECONDS, LONGEST_SECONDS = 0.6, 20.0  # what ends an utterance
QUIET_DB = 25.0  # a piece so far below the loudest of its utterance counts as a pause
FLOOR = 1e-3  # root mean square under which nothing is speech
FACTORIES = {
    "fire_red_asr_ctc": "from_fire_red_asr_ctc",
    "zipformer2_ctc": "from_zipformer_ctc",
    "omnilingual": "from_omnilingual_asr_ctc",
}
# Of sherpa-onnx's streams, whose defaults are icefall's.
FBANK = {"icefall": {}, "kaldi": {"high_freq": 0.0, "normalize_samples": False, "snip_edges": True}}
TAIL_SECONDS = 0.66  # of silence behind the last sample, as sherpa-onnx's examples append
FURTHER_SECONDS = 0.03  # that the filterbanks of a chunk reach beyond its frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of colld export --to sherpa-onnx")
    parser.add_argument("--int8", action="store_true", help="take the files in 8 bits")
    args = parser.parse_args()
    try:
        listen = listener(args.folder, args.int8)
    except ValueError as error:
        parser.error(str(error))
    for line in listen(args.folder, args.int8, pieces(sys.stdin.buffer)):
        print(line, flush=True)


def listener(folder: Path, int8: bool) -> Callable[[Path, bool, Iterator[np.ndarray]], Iterator[str]]:
    """What makes text with the model of the folder. Raises ValueError for a folder with none that can listen."""
    end = ".int8.onnx" if int8 else ".onnx"
    encoder, model = folder / f"encoder{end}", folder / f"model{end}"
    if all((folder / f"{name}{end}").is_file() for name in ("encoder", "decoder", "joiner")):
        if "T" in metadata(encoder):  # frames of a chunk
            return stream_text
        raise ValueError(f"{folder}: a transducer of whole utterances; one that listens is exported with --streaming")
    if model.is_file() and metadata(model).get("colld_slot") in FACTORIES:
        return utterance_text
    wanted = "a CTC student, or of a streaming transducer (of several languages: of one, --lang)"
    raise ValueError(f"{folder}: no folder of colld export --to sherpa-onnx{' --int8' * int8}, of {wanted}")


def pieces(source: BinaryIO) -> Iterator[np.ndarray]:
    """Samples [n <= PIECE] in [-1, 1], until the source ends."""
    while data := source.read(2 * PIECE):
        yield np.frombuffer(data[: len(data) // 2 * 2], dtype="<i2").astype(np.float32) / 32768


@functools.lru_cache(maxsize=None)
def metadata(graph: Path) -> Dict[str, str]:
    """What `colld export` wrote into a file: colld_slot, the client's name of the model; colld_encoder, its input."""
    return onnxruntime.InferenceSession(str(graph)).get_modelmeta().custom_metadata_map


def online_recognizer(folder: Path, int8: bool) -> sherpa_onnx.OnlineRecognizer:
    """A streaming transducer, with the filterbanks that it was trained on."""
    end = ".int8.onnx" if int8 else ".onnx"
    files = {name: str(folder / f"{name}{end}") for name in ("encoder", "decoder", "joiner")}
    fbank = json.loads(metadata(folder / f"encoder{end}")["colld_encoder"])["input"]["fbank"]
    return sherpa_onnx.OnlineRecognizer.from_transducer(
        str(folder / "tokens.txt"), **files, **FBANK[fbank], num_threads=1, enable_endpoint_detection=True
    )


def offline_recognizer(folder: Path, int8: bool) -> sherpa_onnx.OfflineRecognizer:
    """A CTC model in its slot."""
    model = folder / ("model.int8.onnx" if int8 else "model.onnx")
    factory = FACTORIES[metadata(model)["colld_slot"]]
    return getattr(sherpa_onnx.OfflineRecognizer, factory)(model=str(model), tokens=str(folder / "tokens.txt"))


def stream_text(folder: Path, int8: bool, source: Iterator[np.ndarray]) -> Iterator[str]:
    """Utterances of a streaming transducer; what there is of one so far is rewritten on standard error."""
    recognizer = online_recognizer(folder, int8)
    stream = recognizer.create_stream()
    shown = ""
    step = int(metadata(folder / f"encoder{'.int8' * int8}.onnx")["T"]) / 100  # a chunk is decoded as a whole
    for samples in with_tail(source, max(TAIL_SECONDS, step + FURTHER_SECONDS)):
        stream.accept_waveform(RATE, samples)
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
        text = recognizer.get_result(stream).strip()
        if text != shown:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        shown = text
        if recognizer.is_endpoint(stream):
            recognizer.reset(stream)
            yield from finished(text)
            shown = ""
    yield from finished(shown)


def utterance_text(folder: Path, int8: bool, source: Iterator[np.ndarray]) -> Iterator[str]:
    """Utterances of a CTC model, each after the pause that ends it."""
    recognizer = offline_recognizer(folder, int8)
    for samples in utterances(source):
        stream = recognizer.create_stream()
        stream.accept_waveform(RATE, samples)
        recognizer.decode_stream(stream)
        if text := stream.result.text.strip():
            yield text


def finished(text: str) -> Iterator[str]:
    """The text of an utterance, where there is any, in place of what was shown of it."""
    if text:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
        yield text


def with_tail(source: Iterator[np.ndarray], seconds: float) -> Iterator[np.ndarray]:
    """With so much silence behind the last sample."""
    yield from source
    yield np.zeros(round(seconds * RATE), dtype=np.float32)


def utterances(source: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Samples [N] between pauses, by loudness: for a quiet room. Of the silence before and behind an utterance a piece
    or two are kept: a model that normalizes over the utterance would count all of it."""
    kept: List[np.ndarray] = []
    loudest, quiet = 0.0, 0
    for samples in source:
        level = float(np.sqrt(np.mean(samples**2)))
        loudest = max(loudest, level)
        quiet = quiet + 1 if level < max(FLOOR, loudest * 10 ** (-QUIET_DB / 20)) else 0
        kept = [*kept, samples] if loudest > FLOOR else [samples]
        pause = quiet * PIECE >= PAUSE_SECONDS * RATE
        if loudest > FLOOR and (pause or len(kept) * PIECE >= LONGEST_SECONDS * RATE):
            yield between_pauses(kept, quiet)
            kept, loudest, quiet = [], 0.0, 0
    if loudest > FLOOR:
        yield between_pauses(kept, quiet)


def between_pauses(kept: List[np.ndarray], quiet: int) -> np.ndarray:
    """One utterance [N] without what is quiet at its end, but for two pieces."""
    return np.concatenate(kept[: len(kept) - max(quiet - 2, 0)])


if __name__ == "__main__":
    main()
