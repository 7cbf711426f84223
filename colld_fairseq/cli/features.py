"""`colld features`: write a teacher's features of a manifest once, to train from them without the teacher."""

import argparse
import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from colld_fairseq.data.audio import SAMPLE_RATE, read_audio
from colld_fairseq.data.manifest import join_manifests, read_manifest
from colld_fairseq.errors import AudioError, ColldError, ConfigError
from colld_fairseq.teachers import Teacher, load_teacher
from colld_fairseq.teachers.base import DTYPES, KINDS
from colld_fairseq.teachers.cache import CacheHeader, PartWriter, read_index

PART_SECONDS = 600  # of audio in a part; what a stopped run has to do again at most
READERS = 2  # threads that read audio while the teacher computes
SHOWN = 10  # unreadable clips listed at the end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `colld features`."""
    parser.add_argument("--manifest", required=True, metavar="A.tsv[,B.tsv]", help="manifests, joined")
    parser.add_argument("--teacher", required=True, metavar="SPEC", help="hf:DIR or fairseq:FILE.pt")
    parser.add_argument("--layers", required=True, metavar="2,4,6", help="0 = input of the first block")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the cache; finished if begun")
    parser.add_argument("--kind", choices=KINDS, default="layer", help="block or feed-forward outputs")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="precision of the teacher")
    parser.add_argument("--audio-root", metavar="DIR", help="folder that the manifests' paths start from")
    parser.add_argument(
        "--batch-seconds", type=float, default=60.0, help="audio of a batch in seconds, padding included"
    )
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    parser.add_argument("--num-shards", type=int, default=1, help="processes that share the work")
    parser.add_argument("--shard", type=int, default=0, help="which of them this is, from 0")
    parser.add_argument(
        "--max-bad", type=float, default=0.001, help="share of clips, at least one, that may be unreadable"
    )


class _Clip(NamedTuple):
    """A row of the manifest whose audio is being read."""

    id: str
    waveform: "Future[np.ndarray]"


def run(args: argparse.Namespace) -> int:
    """Writes the cache; prints what was done. Raises ColldError."""
    if not 0 <= args.shard < args.num_shards:
        raise ConfigError(f"--shard {args.shard} is not in 0 to {args.num_shards - 1} (--num-shards)")
    console = Console()
    paths = args.manifest.split(",")
    manifest = join_manifests([read_manifest(path, audio_root=args.audio_root) for path in paths])
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    teacher = load_teacher(args.teacher, _parse_layers(args.layers), args.kind, args.dtype, device)
    ids = [manifest.text("id", row) for row in range(len(manifest))]
    parts = plan_parts(distinct_rows(ids), manifest.n_samples)
    header = CacheHeader(
        teacher=args.teacher,
        content_hash=teacher.content_hash,
        layers=teacher.layers,
        kind=args.kind,
        frame_rate_hz=teacher.frame_rate_hz,
        width=teacher.width,
        manifest=args.manifest,
        rows=digest_rows(ids, manifest.n_samples),
        num_parts=len(parts),
    )
    directory = Path(args.out)
    header.save(directory)
    mine = range(args.shard, len(parts), args.num_shards)
    finished = {part: index for part in mine if (index := read_index(directory, part)) is not None}
    todo = [part for part in mine if part not in finished]
    if finished:
        console.print(f"{len(finished)} of {len(mine)} parts are there already")
    bad = {name: reason for index in finished.values() for name, reason in index["bad"].items()}
    limit = max(1, int(args.max_bad * len(manifest)))
    if not todo:
        return 0
    with _progress(console) as progress, ThreadPoolExecutor(READERS) as readers:
        rows_todo = np.concatenate([parts[part] for part in todo])
        bar = _Bar(progress, len(rows_todo), manifest.n_samples[rows_todo].sum() / SAMPLE_RATE)
        for part in todo:
            writer = PartWriter(directory, part, header)
            try:
                batches = plan_batches(parts[part], manifest.n_samples, args.batch_seconds * SAMPLE_RATE)
                clips = [[_submit(readers, manifest, ids, row) for row in batch] for batch in batches]
                failed = _write_part(clips, teacher, writer, bar)
                bad.update(failed)
                if len(bad) > limit:
                    raise AudioError(_bad_report(bad, len(manifest), limit))
                writer.close(failed)
            except BaseException:
                writer.discard()
                raise
    if bad:
        console.print(f"[yellow]{_bad_report(bad, len(manifest), limit)}[/]", soft_wrap=True, highlight=False)
    console.print(bar.summary(str(directory)), soft_wrap=True)
    return 0


def distinct_rows(ids: Sequence[str]) -> np.ndarray:
    """Rows without repetitions of an id (the same clip with several translations)."""
    first: Dict[str, int] = {}
    for row, name in enumerate(ids):
        first.setdefault(name, row)
    return np.fromiter(first.values(), dtype=np.int64)


def plan_parts(rows: np.ndarray, n_samples: np.ndarray) -> List[np.ndarray]:
    """Rows of each part: consecutive ones of about PART_SECONDS, whatever was done before."""
    sizes = n_samples[rows]
    part_of_row = (np.cumsum(sizes) - sizes) // (PART_SECONDS * SAMPLE_RATE)
    return np.split(rows, np.flatnonzero(np.diff(part_of_row)) + 1)


def plan_batches(rows: np.ndarray, n_samples: np.ndarray, max_samples: float) -> Iterator[np.ndarray]:
    """Rows of similar length, at most `max_samples` with padding (a longer clip alone), longest first."""
    rows = rows[np.argsort(-n_samples[rows], kind="stable")]
    start = 0
    while start < len(rows):
        size = max(1, int(max_samples // max(1, n_samples[rows[start]])))
        yield rows[start : start + size]
        start += size


def digest_rows(ids: Sequence[str], n_samples: np.ndarray) -> str:
    """sha256 of the lengths and ids of all rows, in order."""
    total = hashlib.sha256(n_samples.astype("<i8").tobytes())
    total.update("\n".join(ids).encode())
    return total.hexdigest()


def _submit(readers: ThreadPoolExecutor, manifest, ids: Sequence[str], row: int) -> _Clip:
    return _Clip(ids[row], readers.submit(read_audio, manifest.audio_path(row)))


def _write_part(batches: Sequence[List[_Clip]], teacher: Teacher, writer: PartWriter, bar) -> Dict[str, str]:
    """Features of all clips into `writer`; returns the clips that gave none, with the reason."""
    bad: Dict[str, str] = {}
    for clips in batches:
        ids, waveforms = _usable(clips, teacher, bad)
        if ids:
            lengths = torch.tensor([len(waveform) for waveform in waveforms])
            padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(teacher.device)
            output = teacher(padded, lengths)
            for row, (name, frames) in enumerate(zip(ids, output.lengths.tolist())):
                writer.add(name, {layer: value[row] for layer, value in output.features.items()}, frames)
        bar.advance(len(clips), sum(len(waveform) for waveform in waveforms) / SAMPLE_RATE)
    return bad


def _usable(clips: Sequence[_Clip], teacher: Teacher, bad: Dict[str, str]):
    """Ids and waveforms of the clips that can be read and give a frame; the others are entered in `bad`."""
    ids, waveforms = [], []
    for clip in clips:
        try:
            waveform = torch.from_numpy(clip.waveform.result())
        except ColldError as error:
            bad[clip.id] = str(error)
            continue
        if int(teacher.output_lengths(torch.tensor([len(waveform)]))) < 1:
            bad[clip.id] = f"{len(waveform)} samples are too few for one frame of the teacher"
            continue
        ids.append(clip.id)
        waveforms.append(waveform)
    return ids, waveforms


def _parse_layers(text: str) -> List[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--layers {text!r}: write whole numbers with commas, for example 2,4,6") from error


def _bad_report(bad: Dict[str, str], rows: int, limit: int) -> str:
    lines = [f"  {name}: {reason}" for name, reason in list(bad.items())[:SHOWN]]
    more = [f"  and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
    verdict = f"more than the {limit} that --max-bad allows" if len(bad) > limit else "left out"
    return "\n".join([f"{len(bad)} of {rows} clips cannot be used, {verdict}:", *lines, *more])


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("features"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[done]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


class _Bar:
    """Progress in seconds of audio: utterances, hours and speed."""

    def __init__(self, progress: Progress, utterances: int, seconds: float):
        self.progress, self.utterances = progress, utterances
        self.count, self.seconds = 0, 0.0
        self.task = progress.add_task("features", total=max(seconds, 1e-9), done="")

    def advance(self, utterances: int, seconds: float) -> None:
        self.count += utterances
        self.seconds += seconds
        done = f"{self.count}/{self.utterances} clips  {self.seconds / 3600:.2f} h"
        self.progress.update(
            self.task, completed=self.seconds, done=f"{done}  {self.speed:.1f} x real time"
        )

    @property
    def speed(self) -> float:
        """Seconds of audio a second."""
        elapsed = self.progress.tasks[self.task].elapsed
        return self.seconds / elapsed if elapsed else 0.0

    def summary(self, where: str) -> str:
        hours = self.seconds / 3600
        return f"{where}: {self.count} clips, {hours:.2f} h, {self.speed:.1f} times real time"
