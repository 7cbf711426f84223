"""`colld features`: write a teacher's features of a manifest once, to train from them without the teacher."""

import argparse
import hashlib
from pathlib import Path
from typing import Dict, Iterable, List, Sequence

import numpy as np
import torch
from rich.console import Console

from colld_fairseq.cli.clips import AudioBar, BadClips, Clip, distinct_rows, plan_batches, progress, read_ahead, usable
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import join_manifests, read_manifest
from colld_fairseq.errors import ConfigError
from colld_fairseq.teachers import Teacher, load_teacher
from colld_fairseq.teachers.base import DTYPES, KINDS
from colld_fairseq.teachers.cache import CacheHeader, PartWriter, read_index

PART_SECONDS = 600  # of audio in a part; what a stopped run has to do again at most


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
    bad = BadClips(len(manifest), args.max_bad)
    for index in finished.values():
        bad.update(index["bad"])
    if not todo:
        return 0
    with progress(console, "features") as display:
        rows_todo = np.concatenate([parts[part] for part in todo])
        bar = AudioBar(display, len(rows_todo), manifest.n_samples[rows_todo].sum() / SAMPLE_RATE)
        for part in todo:
            writer = PartWriter(directory, part, header)
            try:
                batches = plan_batches(parts[part], manifest.n_samples, args.batch_seconds * SAMPLE_RATE)
                failed = _write_part(read_ahead(manifest, ids, batches), teacher, writer, bar)
                bad.update(failed)
                writer.close(failed)
            except BaseException:
                writer.discard()
                raise
    bad.show(console)
    console.print(bar.summary(str(directory)), soft_wrap=True)
    return 0


def plan_parts(rows: np.ndarray, n_samples: np.ndarray) -> List[np.ndarray]:
    """Rows of each part: consecutive ones of about PART_SECONDS, whatever was done before."""
    sizes = n_samples[rows]
    part_of_row = (np.cumsum(sizes) - sizes) // (PART_SECONDS * SAMPLE_RATE)
    return np.split(rows, np.flatnonzero(np.diff(part_of_row)) + 1)


def digest_rows(ids: Sequence[str], n_samples: np.ndarray) -> str:
    """sha256 of the lengths and ids of all rows, in order."""
    total = hashlib.sha256(n_samples.astype("<i8").tobytes())
    total.update("\n".join(ids).encode())
    return total.hexdigest()


def _write_part(batches: Iterable[List[Clip]], teacher: Teacher, writer: PartWriter, bar: AudioBar) -> Dict[str, str]:
    """Features of all clips into `writer`; returns the clips that gave none, with the reason."""
    bad: Dict[str, str] = {}
    for clips in batches:
        ids, waveforms = usable(clips, teacher.output_lengths, bad)
        if ids:
            lengths = torch.tensor([len(waveform) for waveform in waveforms])
            padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(teacher.device)
            output = teacher(padded, lengths)
            for row, (name, frames) in enumerate(zip(ids, output.lengths.tolist())):
                writer.add(name, {layer: value[row] for layer, value in output.features.items()}, frames)
        bar.advance(len(clips), sum(len(waveform) for waveform in waveforms) / SAMPLE_RATE)
    return bad


def _parse_layers(text: str) -> List[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--layers {text!r}: write whole numbers with commas, for example 2,4,6") from error
