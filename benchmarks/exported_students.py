"""An exported student beside its checkpoint on real utterances: text, errors, size, processor time.

    python benchmarks/exported_students.py --checkpoint ctc.pt --folder models/ctc --manifest test.tsv
    python benchmarks/exported_students.py --checkpoint rnnt.pt --folder models/stream --streaming --manifest test.tsv

The folder is one of `colld export --to sherpa-onnx --int8` of that checkpoint. Every utterance is recognized greedily
by PyTorch, by ONNX Runtime and by sherpa-onnx itself (a process of its own), with weights of 32 and of 8 bits. Counted
are utterances with PyTorch's text, and errors against references that the vocabulary has normalized. Times are of
everything from samples to text, one utterance after another on one thread, of the first --timed utterances.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence
from unittest import mock

import numpy as np
import onnxruntime
import torch

from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifests
from colld_fairseq.export.clients import ClientModel
from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import Exported, ExportOptions
from colld_fairseq.export.folder import exported_in
from colld_fairseq.profiling import describe_machine
from colld_fairseq.recogniser import load_recogniser
from colld_fairseq.scoring.metrics import CorpusScores

CLIENT = Path(__file__).with_name("exported_students_client.py")
Recognize = Callable[[np.ndarray], str]


class System(NamedTuple):
    """Hypotheses of every utterance, bytes of its model, processor seconds of each round (none: not timed)."""

    name: str
    hypotheses: List[str]
    size: int
    seconds: List[float]


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="of colld export --to sherpa-onnx --int8")
    parser.add_argument("--manifest", required=True, help="held-out utterances with transcripts")
    parser.add_argument("--decoder", choices=("auto", "ctc"), default="auto", help="of that export")
    parser.add_argument("--streaming", action="store_true", help="the folder was exported with --streaming")
    parser.add_argument("--chunk-ms", type=int, default=320, help="of that export")
    parser.add_argument("--left-context", default="trained", help="of that export")
    parser.add_argument("--timed", type=int, default=40, help="utterances whose recognition is timed")
    parser.add_argument("--rounds", type=int, default=5, help="of timing; the median counts")
    parser.add_argument("--json", metavar="FILE", help="write hypotheses and figures there")
    args = parser.parse_args(arguments)
    if min(args.timed, args.rounds) < 1:
        parser.error("--timed and --rounds must be at least 1")
    return args


def main(arguments=None) -> None:
    args = parse_arguments(arguments)
    torch.set_num_threads(1)
    recogniser = load_recogniser(args.checkpoint, device="cpu", decoder=args.decoder)
    streaming = dict(streaming=True, chunk_ms=args.chunk_ms, left_context=args.left_context) if args.streaming else {}
    exported = exported_in(args.folder, family_of(recogniser, ExportOptions("sherpa-onnx", **streaming)))
    manifest = read_manifests(args.manifest)
    rows = [manifest.row(index) for index in range(len(manifest))]
    waveforms = [read_audio(row.audio) for row in rows]
    references = [recogniser.vocabulary.codec.clean(row.tgt_text) for row in rows]
    systems = measure(exported, args.checkpoint, waveforms, args.timed, args.rounds)
    seconds = sum(len(waveform) for waveform in waveforms[: args.timed]) / SAMPLE_RATE
    table = [figures(system, systems[0], references, seconds) for system in systems]
    print(markdown(table))
    exceptions = differences(systems, [row.id for row in rows])
    print("\n".join(exceptions) or "Every system of 32 bits writes PyTorch's text.")
    if args.json:
        result = {"machine": describe_machine(torch.device("cpu")), "utterances": len(rows), "timed_seconds": seconds}
        result |= {"systems": table, "exceptions": exceptions, "references": references}
        result["hypotheses"] = {system.name: system.hypotheses for system in systems}
        Path(args.json).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measure(
    exported: Exported, checkpoint: str, waveforms: Sequence[np.ndarray], timed: int, rounds: int
) -> List[System]:
    """PyTorch first; then ONNX Runtime and the client for each precision that is there."""
    student = student_text(exported)
    weights = sum(value.numel() * 4 for value in exported.family.model.parameters())
    systems = [System("PyTorch", [student(w) for w in waveforms], weights, times(student, waveforms[:timed], rounds))]
    for int8 in exported.precisions:
        bits = 8 if int8 else 32
        size = sum(exported.graph(graph.name, int8).stat().st_size for graph in exported.family.graphs())
        with sessions_kept():
            hypotheses = [runtime_text(exported, waveform, int8) for waveform in waveforms]
        systems.append(System(f"ONNX Runtime, {bits} bits", hypotheses, size, []))
        model = exported.family.client_model(exported, int8=int8)
        hypotheses = client_run(model, waveforms, 1)["hypotheses"]
        seconds = client_run(model, waveforms[:timed], rounds)["seconds"]
        systems.append(System(f"sherpa-onnx, {bits} bits", [text.strip() for text in hypotheses], size, seconds))
    return systems


def student_text(exported: Exported) -> Recognize:
    """PyTorch's greedy search, under the context that was exported."""
    family = exported.family
    if hasattr(family, "student_output"):
        return lambda waveform: family.student_output(waveform).text
    return lambda waveform: family.recogniser.detokenize(family.tokens(family.student_frames(waveform)))


def runtime_text(exported: Exported, waveform: np.ndarray, int8: bool) -> str:
    """Greedy search on what ONNX Runtime computes."""
    family = exported.family
    if hasattr(family, "runtime_output"):
        return family.runtime_output(exported, waveform, int8).text
    frames = family.runtime_frames(exported, family.features(waveform), int8)
    return family.recogniser.detokenize(family.runtime(exported, int8=int8).greedy(frames))


@contextlib.contextmanager
def sessions_kept() -> Iterator[None]:
    """A graph is opened once here; a comparison of one utterance opens it anew."""
    opened, new = {}, onnxruntime.InferenceSession

    def kept(path: str, *args, **kwargs) -> onnxruntime.InferenceSession:
        if path not in opened:
            opened[path] = new(path, *args, **kwargs)
        return opened[path]

    with mock.patch.object(onnxruntime, "InferenceSession", kept):
        yield


def times(recognize: Recognize, waveforms: Sequence[np.ndarray], rounds: int) -> List[float]:
    """Processor seconds of each round over all utterances."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        for waveform in waveforms:
            recognize(waveform)
        seconds.append(time.process_time() - start)
    return seconds


def client_run(model: ClientModel, waveforms: Sequence[np.ndarray], rounds: int) -> Dict[str, list]:
    """See exported_students_client.py."""
    arguments = json.dumps({**model.arguments, "num_threads": 1})
    tail = str(getattr(model, "tail_seconds", 0.0))
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{index}.npy" for index in range(len(waveforms))]
        for path, waveform in zip(paths, waveforms):
            np.save(path, waveform)
        command = [sys.executable, str(CLIENT), model.factory, arguments, tail, str(rounds), *paths]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def figures(system: System, student: System, references: Sequence[str], timed_seconds: float) -> Dict[str, object]:
    """One row of the table; timed_seconds: of audio."""
    scores = CorpusScores()
    for text, reference in zip(system.hypotheses, references):
        scores.add(text, reference)
    overall = scores.overall()
    per_second = statistics.median(system.seconds) / timed_seconds if system.seconds else None
    return {
        "system": system.name,
        "same": sum(own == text for own, text in zip(student.hypotheses, system.hypotheses)),
        "utterances": len(references),
        "wer": overall.wer,
        "cer": overall.cer,
        "mb": system.size / 1e6,
        "seconds_per_second": per_second,
        "rounds": [value / timed_seconds for value in system.seconds],
    }


def markdown(table: Sequence[Dict[str, object]]) -> str:
    """Rows as a table."""
    lines = [
        "| system | same text | WER | CER | MB | processor seconds per second of audio |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in table:
        speed = "" if row["seconds_per_second"] is None else f"{row['seconds_per_second']:.4f}"
        same = f"{row['same']} of {row['utterances']}"
        lines.append(f"| {row['system']} | {same} | {row['wer']:.2f} | {row['cer']:.2f} | {row['mb']:.2f} | {speed} |")
    return "\n".join(lines)


def differences(systems: Sequence[System], ids: Sequence[str]) -> List[str]:
    """Utterances of which a system of 32 bits writes another text than PyTorch."""
    student, *others = systems
    return [
        f"{ids[index]}: {other.name} {other.hypotheses[index]!r}, PyTorch {own!r}"
        for other in others
        if "32" in other.name
        for index, own in enumerate(student.hypotheses)
        if other.hypotheses[index] != own
    ]


if __name__ == "__main__":
    main()
