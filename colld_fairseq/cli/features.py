"""`colld features`: write a teacher's features of a manifest once, to train from them without the teacher.

    torchrun --nproc-per-node 8 --no-python colld features ...      all GPUs of a machine; --nnodes for several machines

Processes share the parts of the cache without talking to each other, and each can be stopped and started again.
"""

import argparse
import os
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

import numpy as np
import torch

from colld_fairseq.cli.terminal import AudioBar, Console, progress
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import AnyManifest, read_manifests
from colld_fairseq.data.utterances import BadUtterances, distinct_rows, plan_batches, usable_batches
from colld_fairseq.devices import pick_device
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import errors_name
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.outputs import check_folder, only_run
from colld_fairseq.teachers import Teacher, cache_files, describe_teacher, load_teacher
from colld_fairseq.teachers.cache_files import CacheHeader, PartIndex, PartWriter, finished_part


def run(args: argparse.Namespace) -> int:
    """Writes the cache, or this process' share of it; prints what was done. Raises ColldError."""
    shard = this_shard(args.shard, args.num_shards)
    console = Console()
    manifest = read_manifests(args.manifest, args.audio_root)
    check_folder(args.out, "--out")
    layers = args.layers
    if "out" in layers:
        output = describe_teacher(args.teacher).num_layers + 1
        layers = [output if layer == "out" else layer for layer in layers]
    teacher = load_teacher(args.teacher, layers, args.kind, args.dtype, shard.device(args.device))
    silence = dict(tail_seconds=args.tail_seconds, least_seconds=args.least_seconds)
    if any(silence.values()):
        teacher.set_silence(InputConfig("log_mel", normalization="none", **silence))
    parts = cache_files.plan_parts(distinct_rows(manifest.ids), manifest.n_samples, args.part_seconds)
    header = CacheHeader(
        teacher=args.teacher,
        content_hash=teacher.content_hash,
        layers=teacher.layers,
        kind=args.kind,
        frame_rate_hz=teacher.frame_rate_hz,
        width=teacher.width,
        manifest=args.manifest,
        rows=cache_files.digest_rows(manifest.ids, manifest.n_samples),
        num_parts=len(parts),
        dtype=args.storage,
        teacher_dtype=args.dtype,
        part_seconds=args.part_seconds,
        **silence,
    )
    directory = Path(args.out)
    header.save(directory)
    mine = range(shard.index, len(parts), shard.total)
    finished = {part: index for part in mine if (index := finished_part(directory, part, header))}
    if finished:
        console.say(f"{len(finished)} of {len(mine)} parts are there already")
    bad = BadUtterances(len(manifest), args.max_bad)
    for index in finished.values():
        bad.update(index.bad)
    todo = {part: parts[part] for part in mine if part not in finished}
    if todo:
        cache_files.remove_index(directory)
        writer = FeatureWriter(manifest, teacher, header, directory, args.batch_seconds)
        writer.write(todo, bad, console, f"features, {shard}" if shard.total > 1 else "features")
    indices = [finished_part(directory, part, header) for part in range(len(parts))]
    missing = indices.count(None)
    if missing:
        console.left_out(bad)
        console.say(f"{missing} of {len(parts)} parts are left to other processes")
    else:
        _complete(directory, header, indices, bad, console)
    return 0


class FeatureWriter:
    """Runs a teacher over rows of a manifest and writes what it gives as parts of a cache."""

    def __init__(
        self, manifest: AnyManifest, teacher: Teacher, header: CacheHeader, directory: Path, batch_seconds: float
    ):
        self.manifest, self.teacher, self.header, self.directory = manifest, teacher, header, directory
        self.ids, self.batch_samples = manifest.ids, batch_seconds * SAMPLE_RATE

    def write(self, parts: Dict[int, np.ndarray], bad: BadUtterances, console: Console, title: str) -> None:
        """Parts {index: rows}, one after another, each atomically; prints a summary."""
        n_samples = self.manifest.n_samples
        rows = np.concatenate(list(parts.values()))
        with progress(console, title) as display:
            bar = AudioBar(display, len(rows), n_samples[rows].sum() / SAMPLE_RATE)
            for index, rows in parts.items():
                path = cache_files.part_paths(self.directory, index)[0]
                with only_run(path), errors_name(path):
                    self._write_part(index, rows, bad, bar)
        console.say(bar.summary(str(self.directory)))

    def _write_part(self, index: int, rows: np.ndarray, bad: BadUtterances, bar: AudioBar) -> None:
        part = PartWriter(self.directory, index, self.header)
        try:
            failed = self._add_all(part, rows, bar)
            bad.update(failed)
            part.close(failed)
        except BaseException:
            part.discard()
            raise

    def _add_all(self, part: PartWriter, rows: np.ndarray, bar: AudioBar) -> Dict[str, str]:
        """Adds the features of all rows; returns the utterances that gave none, with the reason."""
        n_samples, teacher = self.manifest.n_samples, self.teacher
        lengths = {self.ids[row]: int(n_samples[row]) for row in rows}
        failed: Dict[str, str] = {}
        batches = plan_batches(rows, n_samples, self.batch_samples)
        for ids, waveforms in usable_batches(
            self.manifest, self.ids, batches, teacher.output_lengths, failed, bar.advance
        ):
            if ids:
                sizes = torch.tensor([len(waveform) for waveform in waveforms])
                padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(teacher.device)
                output = teacher(padded, sizes).checked(ids, f"teacher {teacher.spec}")
                for row, (name, frames) in enumerate(zip(ids, output.lengths.tolist())):
                    features = {layer: value[row] for layer, value in output.features.items()}
                    part.add(name, features, frames, lengths[name])
        return failed


def _complete(
    directory: Path, header: CacheHeader, parts: List[PartIndex], bad: BadUtterances, console: Console
) -> None:
    """Every part is there: bad utterances of all processes counted, the index written, the loss of storing told."""
    for part in parts:
        bad.update(part.bad)
    console.left_out(bad)
    losses = cache_files.write_index(directory, header, parts)
    size = sum(header.utterance_bytes(frames) for part in parts for frames in part.frames)
    layer, worst = max(losses.items(), key=lambda item: item[1]["error"])
    console.say(
        f"{directory}: complete, {sum(len(part.ids) for part in parts)} utterances, {size / 1e9:.3g} GB. Stored as "
        f"{header.dtype}, features differ from the teacher's by at most {100 * worst['error']:.2g} % of a channel's "
        f"standard deviation (layer {layer}, root mean square; every layer: index.json)"
    )


class Shard(NamedTuple):
    """Process `index` of `total`, from 0; `local` counts those of its machine."""

    index: int
    total: int
    local: int

    def __str__(self) -> str:
        return f"process {self.index + 1} of {self.total}"

    def device(self, name: Optional[str]) -> str:
        """`name`, by default cuda where there is one; processes of one machine take its GPUs in turn."""
        name = pick_device(name)
        return f"cuda:{self.local % torch.cuda.device_count()}" if name == "cuda" else name


def this_shard(index: Optional[int], total: Optional[int]) -> Shard:
    """From --shard and --num-shards; without them what torchrun says, or all of the work.

    Raises ConfigError: one of them without the other, or an index out of range.
    """
    if index is None and total is None:
        index, total = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if index is None or total is None or not 0 <= index < total:
        raise ConfigError(
            f"shard {index} of {total}: give --shard, from 0, and --num-shards, the number of processes, or neither; "
            f"then torchrun's variables RANK and WORLD_SIZE count"
        )
    return Shard(index, total, int(os.environ.get("LOCAL_RANK", 0)))
