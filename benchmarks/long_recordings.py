"""Recordings of an hour: are they recognized as their utterances are, in flat memory, and through a kill?

    python benchmarks/long_recordings.py --manifest data/test.tsv --checkpoint runs/asr/checkpoint_best.pt
    python benchmarks/long_recordings.py --manifest ... --checkpoint ... --seconds 600 --streams 8 --json long.json

Utterances of the manifest, drawn in rounds, are joined to one recording with pauses of 0.3 to 2 s of faint noise, and
to one without. Both go through `colld transcribe`, cut at quiet moments and around speech (`--vad`, where silero-vad is
installed). In the table: the WER of the whole beside that of its utterances one by one, the real-time factor, the peak
memory, and by how much it is above that of a quarter of the recording. Then a run is killed (SIGKILL) once half of its
pieces are done and begun again: its text must be that of the run before, and no piece may be transcribed twice. With
--streams N, N recordings of a sixth of the length are streamed side by side, for models that can.

Words are compared in lower case without punctuation. Everything runs on the CPU, one process at a time.
Target: WER of the whole within 0.5 of its utterances', memory of the whole within 50 MB of a quarter's.
"""

import argparse
import contextlib
import json
import logging
import os
import re
import signal
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

import numpy as np
import soundfile
import torch
from rapidfuzz.distance import Levenshtein

import colld_fairseq  # noqa: F401  (registers, once for all runs)
from colld_fairseq.cli import main as colld
from colld_fairseq.data.audio import SAMPLE_RATE, read_audio
from colld_fairseq.data.manifest import JoinedManifest, read_manifest, read_manifests
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.data.voice_activity import VoiceActivity
from colld_fairseq.errors import ConfigError
from colld_fairseq.profiling import describe_machine

PAUSES, NOISE = (0.3, 2.0), 1e-4  # seconds; deviation of the samples
BATCH_PIECES = 2  # transcribed at once: of how many results a kill can take the work
POLL_SECONDS = 0.005


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True, help="utterances with their text")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--seconds", type=float, default=3600.0, help="of speech in the recording")
    parser.add_argument("--cut-seconds", type=float, default=30.0)
    parser.add_argument("--lang", default="", help="target language, for models that want one")
    parser.add_argument("--streams", type=int, default=0, help="side by side; 0 = none")
    parser.add_argument("--folder", help="where recordings are kept; default: a temporary one")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    args = parser.parse_args(arguments)
    if args.seconds <= 0 or args.cut_seconds <= 0 or args.streams < 0:
        parser.error("--seconds and --cut-seconds must be above 0, --streams at least 0")
    return args


class Recording(NamedTuple):
    """A file of joined utterances, rows of the manifest in order, and its length."""

    path: Path
    rows: List[int]
    seconds: float


def drawn(rows: JoinedManifest, seconds: float, seed: int = 1) -> List[int]:
    """Rows with so many seconds of audio, all once before any is there twice."""
    generator, result, total = np.random.default_rng(seed), [], 0.0
    while total < seconds:
        for row in generator.permutation(len(rows)).tolist():
            if total < seconds:
                result.append(row)
                total += rows.n_samples[row] / SAMPLE_RATE
    return result


def join(rows: JoinedManifest, chosen: Sequence[int], pauses: bool, path: Path) -> Recording:
    """Writes the recording, an utterance at a time."""
    generator, samples = np.random.default_rng(2), 0
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as file:
        for row in chosen:
            parts = [read_audio(rows.audio_path(row))]
            if pauses:
                parts.append(NOISE * generator.standard_normal(int(generator.uniform(*PAUSES) * SAMPLE_RATE)))
            for part in parts:
                file.write(part)
                samples += len(part)
    return Recording(path, list(chosen), samples / SAMPLE_RATE)


def words(text: str) -> List[str]:
    return re.sub(r"[^\w\s']", " ", text.lower()).split()


def wer(pairs: Sequence["tuple[str, str]"]) -> float:
    """Percent, of (reference, hypothesis)."""
    errors = sum(Levenshtein.distance(words(reference), words(hypothesis)) for reference, hypothesis in pairs)
    return 100 * errors / max(1, sum(len(words(reference)) for reference, _ in pairs))


class Finished(NamedTuple):
    """A run of `colld transcribe`: hypotheses by id, its seconds, and the most memory it had (MB)."""

    hypotheses: Dict[str, str]
    seconds: float
    peak_mb: float


def start(arguments: Sequence[str], log: Path) -> int:
    """`colld` in a process of its own, which has all that was imported here; its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        with open(log, "a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            code = colld(list(arguments))
    finally:
        os._exit(code)


def command(args: argparse.Namespace, out: Path, *inputs: str) -> List[str]:
    language = ["--lang", args.lang] if args.lang else []
    batches = ["--batch-seconds", str(BATCH_PIECES * args.cut_seconds)]
    return ["transcribe", args.checkpoint, *inputs, *language, *batches, "--device", "cpu", "--out", str(out)]


def finish(arguments: Sequence[str]) -> Finished:
    """Runs it to its end. RuntimeError with what it said where it fails."""
    out = Path(arguments[arguments.index("--out") + 1])
    log, begin = out.with_suffix(".log"), time.perf_counter()
    _, status, usage = os.wait4(start(arguments, log), 0)
    if status:
        raise RuntimeError(f"colld {' '.join(arguments)} ended with {status}:\n{log.read_text()}")
    rows = read_manifest(str(out))
    hypotheses = {row.id: row.tgt_text for row in map(rows.row, range(len(rows)))}
    return Finished(hypotheses, time.perf_counter() - begin, usage.ru_maxrss / 1024)


def kill_halfway(arguments: Sequence[str], pieces: int) -> int:
    """Begins a run and kills it once half of its pieces are in the journal; how many were."""
    out = Path(arguments[arguments.index("--out") + 1])
    journal = out.with_name(f"{out.name}.partial")
    process, done = start(arguments, out.with_suffix(".log")), 0
    while done < max(1, pieces // 2):
        if os.waitpid(process, os.WNOHANG)[0]:
            raise RuntimeError(f"the run ended before it was killed: {out.with_suffix('.log').read_text()}")
        time.sleep(POLL_SECONDS)
        done = noted(journal)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return noted(journal)


def noted(journal: Path) -> int:
    """Results in a journal, behind the line that says what was asked for."""
    try:
        return max(0, journal.read_bytes().count(b"\n") - 1)
    except FileNotFoundError:
        return 0


def ways() -> Dict[str, List[str]]:
    """Name -> options, of cutting."""
    try:
        VoiceActivity()
    except ConfigError:
        return {"quiet": []}
    return {"quiet": [], "vad": ["--vad"]}


def measure(args: argparse.Namespace, folder: Path) -> Dict:
    rows = read_manifests(args.manifest)
    chosen = drawn(rows, args.seconds)
    parts_file = folder / "parts.tsv"
    used = [rows.row(row)._replace(audio=os.path.abspath(rows.audio_path(row))) for row in sorted(set(chosen))]
    write_manifest(parts_file, used)
    parts = finish(command(args, folder / "parts.out.tsv", "--manifest", str(parts_file)))
    references = {row: rows.row(row) for row in set(chosen)}
    one_by_one = wer([(references[row].tgt_text, parts.hypotheses.get(references[row].id, "")) for row in chosen])
    reference = " ".join(references[row].tgt_text for row in chosen)
    results, cut = [], ["--cut-seconds", str(args.cut_seconds)]
    for pauses in (True, False):
        name = "pauses" if pauses else "joined"
        recording = join(rows, chosen, pauses, folder / f"{name}.flac")
        quarter = join(rows, chosen[: max(1, len(chosen) // 4)], pauses, folder / f"{name}_quarter.flac")
        for way, options in ways().items():
            out = folder / f"{name}_{way}.tsv"
            whole = finish(command(args, out, str(recording.path), *cut, *options))
            less = finish(command(args, out.with_name(f"quarter_{out.name}"), str(quarter.path), *cut, *options))
            (text,) = whole.hypotheses.values()
            results.append(
                {
                    "recording": name,
                    "cut": way,
                    "seconds": round(recording.seconds, 1),
                    "wer": round(wer([(reference, text)]), 3),
                    "wer_of_utterances": round(one_by_one, 3),
                    "rtf": round(whole.seconds / recording.seconds, 5),
                    "peak_mb": round(whole.peak_mb, 1),
                    "above_a_quarter_mb": round(whole.peak_mb - less.peak_mb, 1),
                }
            )
            print("  ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
    resumed = resume(args, folder, [str(folder / "pauses.flac"), *cut], text_of(folder / "pauses_quiet.tsv"))
    return {"cut_seconds": args.cut_seconds, "recordings": results, "killed": resumed, **streams(args, rows, folder)}


def text_of(manifest: Path) -> str:
    return read_manifest(str(manifest)).row(0).tgt_text


def resume(args: argparse.Namespace, folder: Path, inputs: Sequence[str], expected: str) -> Dict:
    """Kills a run in the middle, goes on, and compares. RuntimeError where the text is another."""
    arguments = command(args, folder / "killed.tsv", *inputs)
    pieces = int(args.seconds / args.cut_seconds)
    before = kill_halfway(arguments, pieces)
    after = finish(arguments)
    (text,) = after.hypotheses.values()
    said = (folder / "killed.log").read_text()
    if text != expected or f"and {before} parts of others" not in said:
        raise RuntimeError(f"a run that was killed with {before} pieces and begun again gives another text:\n{said}")
    print(f"killed with {before} pieces done, begun again: the same text, no piece twice")
    return {"pieces_before": before, "same_text": True}


def streams(args: argparse.Namespace, rows: JoinedManifest, folder: Path) -> Dict:
    """Several streams side by side, if asked for."""
    if not args.streams:
        return {}
    inputs = []
    for index in range(args.streams):
        chosen = drawn(rows, args.seconds / 6, seed=10 + index)
        inputs.append(join(rows, chosen, True, folder / f"stream{index}.flac"))
    options = ["--streaming", "--streams", str(args.streams)]
    run = finish(command(args, folder / "streams.tsv", *(str(one.path) for one in inputs), *options))
    references = [" ".join(rows.row(row).tgt_text for row in one.rows) for one in inputs]
    result = {
        "streams": args.streams,
        "seconds": round(sum(one.seconds for one in inputs), 1),
        "wer": round(wer(list(zip(references, run.hypotheses.values()))), 3),
        "rtf": round(run.seconds / sum(one.seconds for one in inputs), 5),
        "peak_mb": round(run.peak_mb, 1),
    }
    print("  ".join(f"{key} {value}" for key, value in result.items()))
    return {"streams": result}


def main() -> None:
    args = parse_arguments()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = {"machine": describe_machine(torch.device("cpu")), **measure(args, folder)}
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
