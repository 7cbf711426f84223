"""`colld features`: write a teacher's features of a manifest once, to train from them without the teacher.

    torchrun --nproc-per-node 8 --no-python colld features ...      all GPUs of a machine; --nnodes for several machines

Processes share the parts of the cache without talking to each other, and each can be stopped and started again.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Sequence

import numpy as np
import torch
from rich.console import Console

from colld_fairseq.cli.clips import AudioBar, BadClips, Clip, distinct_rows, plan_batches, progress, read_ahead, usable
from colld_fairseq.cli.shards import this_shard
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import AnyManifest, join_manifests, read_manifest
from colld_fairseq.errors import ConfigError
from colld_fairseq.teachers import Teacher, load_teacher
from colld_fairseq.teachers.base import DTYPES, KINDS
from colld_fairseq.teachers.cache_files import (
    PART_SECONDS,
    CacheHeader,
    PartIndex,
    PartWriter,
    finished_part,
    remove_index,
    write_index,
)
from colld_fairseq.teachers.cache_storage import STORAGES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `colld features`."""
    parser.add_argument("--manifest", required=True, metavar="A.tsv[,B.tsv]", help="manifests, joined")
    parser.add_argument("--teacher", required=True, metavar="SPEC", help="hf:DIR or fairseq:FILE.pt")
    parser.add_argument("--layers", required=True, metavar="2,4,6", help="0 = input of the first block")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the cache; finished if begun")
    parser.add_argument("--kind", choices=KINDS, default="layer", help="block or feed-forward outputs")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="precision of the teacher")
    parser.add_argument(
        "--storage",
        choices=list(STORAGES),
        default="float16",
        help="precision on disk; uint8 takes half of float16's space. What is lost is measured, printed and kept in "
        "index.json (default: %(default)s)",
    )
    parser.add_argument("--audio-root", metavar="DIR", help="folder that the manifests' paths start from")
    parser.add_argument(
        "--batch-seconds", type=float, default=60.0, help="audio of a batch in seconds, padding included"
    )
    parser.add_argument(
        "--part-seconds",
        type=float,
        default=PART_SECONDS,
        help="audio in a file, in seconds; a stopped run does at most that much again (default: %(default)g)",
    )
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    parser.add_argument("--num-shards", type=int, help="processes that share the work (default: torchrun's, or 1)")
    parser.add_argument("--shard", type=int, help="which of them this is, from 0 (default: torchrun's rank, or 0)")
    parser.add_argument(
        "--max-bad", type=float, default=0.001, help="share of clips, at least one, that may be unreadable"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the cache, or this process' share of it; prints what was done. Raises ColldError."""
    shard = this_shard(args.shard, args.num_shards)
    if not args.part_seconds > 0:
        raise ConfigError(f"--part-seconds {args.part_seconds:g}: must be above 0")
    console = Console()
    paths = args.manifest.split(",")
    manifest = join_manifests([read_manifest(path, audio_root=args.audio_root) for path in paths])
    device = shard.device(args.device)
    teacher = load_teacher(args.teacher, _parse_layers(args.layers), args.kind, args.dtype, device)
    parts = plan_parts(distinct_rows(manifest.ids), manifest.n_samples, args.part_seconds)
    header = CacheHeader(
        teacher=args.teacher,
        content_hash=teacher.content_hash,
        layers=teacher.layers,
        kind=args.kind,
        frame_rate_hz=teacher.frame_rate_hz,
        width=teacher.width,
        manifest=args.manifest,
        rows=digest_rows(manifest.ids, manifest.n_samples),
        num_parts=len(parts),
        dtype=args.storage,
        teacher_dtype=args.dtype,
        part_seconds=args.part_seconds,
    )
    directory = Path(args.out)
    header.save(directory)
    mine = range(shard.number, len(parts), shard.total)
    finished = {part: index for part in mine if (index := finished_part(directory, part, header))}
    if finished:
        console.print(f"{len(finished)} of {len(mine)} parts are there already")
    bad = BadClips(len(manifest), args.max_bad)
    for index in finished.values():
        bad.update(index.bad)
    todo = {part: parts[part] for part in mine if part not in finished}
    if todo:
        remove_index(directory)
        writer = FeatureWriter(manifest, teacher, header, directory, args.batch_seconds)
        writer.write(todo, bad, console, f"features, {shard}" if shard.total > 1 else "features")
    found = [finished_part(directory, part, header) for part in range(len(parts))]
    missing = found.count(None)
    if missing:
        bad.show(console)
        console.print(f"{missing} of {len(parts)} parts are left to other processes", soft_wrap=True)
    else:
        _complete(directory, header, found, bad, console)
    return 0


class FeatureWriter:
    """Runs a teacher over rows of a manifest and writes what it gives as parts of a cache."""

    def __init__(
        self, manifest: AnyManifest, teacher: Teacher, header: CacheHeader, directory: Path, batch_seconds: float
    ):
        self.manifest, self.teacher, self.header, self.directory = manifest, teacher, header, directory
        self.ids, self.batch_samples = manifest.ids, batch_seconds * SAMPLE_RATE

    def write(self, parts: Dict[int, np.ndarray], bad: BadClips, console: Console, title: str) -> None:
        """Parts {number: rows}, one after another, each whole or not at all; prints a summary."""
        n_samples = self.manifest.n_samples
        rows = np.concatenate(list(parts.values()))
        with progress(console, title) as display:
            bar = AudioBar(display, len(rows), n_samples[rows].sum() / SAMPLE_RATE)
            for number, rows in parts.items():
                part = PartWriter(self.directory, number, self.header)
                try:
                    batches = plan_batches(rows, n_samples, self.batch_samples)
                    lengths = {self.ids[row]: int(n_samples[row]) for row in rows}
                    failed = self._write_part(read_ahead(self.manifest, self.ids, batches), lengths, part, bar)
                    bad.update(failed)
                    part.close(failed)
                except BaseException:
                    part.discard()
                    raise
        console.print(bar.summary(str(self.directory)), soft_wrap=True)

    def _write_part(
        self, batches: Iterable[List[Clip]], lengths: Dict[str, int], part: PartWriter, bar: AudioBar
    ) -> Dict[str, str]:
        """Features of all clips; returns those that gave none, with the reason. lengths: samples in the manifest."""
        failed: Dict[str, str] = {}
        teacher = self.teacher
        for clips in batches:
            ids, waveforms = usable(clips, teacher.output_lengths, failed)
            if ids:
                sizes = torch.tensor([len(waveform) for waveform in waveforms])
                padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(teacher.device)
                output = teacher(padded, sizes)
                for row, (name, frames) in enumerate(zip(ids, output.lengths.tolist())):
                    features = {layer: value[row] for layer, value in output.features.items()}
                    part.add(name, features, frames, lengths[name])
            bar.advance(len(clips), sum(len(waveform) for waveform in waveforms) / SAMPLE_RATE)
        return failed


def plan_parts(rows: np.ndarray, n_samples: np.ndarray, seconds: Optional[float] = None) -> List[np.ndarray]:
    """Rows of each part: consecutive ones of about `seconds` (PART_SECONDS), whatever was done before."""
    sizes = n_samples[rows]
    part_of_row = (np.cumsum(sizes) - sizes) // ((seconds or PART_SECONDS) * SAMPLE_RATE)
    return np.split(rows, np.flatnonzero(np.diff(part_of_row)) + 1)


def digest_rows(ids: Sequence[str], n_samples: np.ndarray) -> str:
    """sha256 of the lengths and ids of all rows, in order."""
    total = hashlib.sha256(n_samples.astype("<i8").tobytes())
    total.update("\n".join(ids).encode())
    return total.hexdigest()


def _complete(directory: Path, header: CacheHeader, parts: List[PartIndex], bad: BadClips, console: Console) -> None:
    """Every part is there: bad clips of all processes counted, the index written, the loss of storing told."""
    for part in parts:
        bad.update(part.bad)
    bad.show(console)
    losses = write_index(directory, header, parts)
    size = sum(header.clip_bytes(frames) for part in parts for frames in part.frames)
    layer, worst = max(losses.items(), key=lambda item: item[1]["error"])
    console.print(
        f"{directory}: complete, {sum(len(part.ids) for part in parts)} clips, {size / 1e9:.3g} GB. Stored as "
        f"{header.dtype}, features differ from the teacher's by at most {100 * worst['error']:.2g} % of a channel's "
        f"standard deviation (layer {layer}, root mean square; every layer: index.json)",
        soft_wrap=True,
        highlight=False,
    )


def _parse_layers(text: str) -> List[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--layers {text!r}: write whole numbers with commas, for example 2,4,6") from error
