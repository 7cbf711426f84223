"""`colld codebooks`: a residual quantizer of a teacher layer, and the indexes of every frame, a byte per codebook.

    torchrun --nproc-per-node 8 --no-python colld codebooks ...     once the codebooks are there: indexes on all GPUs

Processes share the parts of the indexes without talking to each other, and each can be stopped and started again.
"""

import argparse
from pathlib import Path
from typing import Optional

import numpy as np
import torch

from colld_fairseq.cli.features import Shard, this_shard
from colld_fairseq.cli.terminal import AudioBar, Console, progress
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import read_manifests
from colld_fairseq.data.utterances import BadUtterances, sample_rows
from colld_fairseq.devices import pick_device
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import errors_name
from colld_fairseq.outputs import check_folder, check_output, only_run
from colld_fairseq.teachers import cache_files, load_teacher
from colld_fairseq.teachers.cache_files import CacheHeader, PartWriter, finished_part
from colld_fairseq.teachers.frame_source import CacheSource, Corpus, FrameSource, Source
from colld_fairseq.teachers.quantizer import QuantizerHeader, QuantizerSettings, ResidualQuantizer
from colld_fairseq.teachers.quantizer_fit import fit_codebooks


def run(args: argparse.Namespace) -> int:
    """Writes the codebooks and the indexes; prints what was done. Raises ColldError."""
    _check(args)
    shard, console = this_shard(args.shard, args.num_shards), Console()
    fitted_on, indexed = _corpus(args, args.manifest), _corpus(args, args.index_manifest)
    read = [path for corpus in (fitted_on, indexed) if corpus for path in corpus.manifest.files]
    check_output(args.out, "--out", read)
    if args.indexes:
        check_folder(args.indexes, "--indexes")
    source = _open_source(args, shard.device(args.device))
    corpus = fitted_on or source.everything()
    settings = _settings(args, source, corpus)
    if Path(args.out).is_file():
        console.say(f"{args.out} is there already")
    elif shard.total > 1:
        raise ConfigError(f"--out {args.out}: one process has to write it first: give the command without --num-shards")
    else:
        with only_run(args.out):
            _fit(args, source, corpus, settings, console)
    quantizer = ResidualQuantizer.load(args.out)
    settings.must_equal(quantizer.header, args.out)
    if args.indexes:
        IndexWriter(args, source, indexed or corpus, quantizer).write(shard, console)
    return 0


def _check(args: argparse.Namespace) -> None:
    if not args.cache and not (args.teacher and args.manifest):
        raise ConfigError("give --cache DIR, or --teacher SPEC and --manifest A.tsv")
    if not args.indexes and (args.index_manifest or args.num_shards or args.shard is not None):
        raise ConfigError("--index-manifest, --num-shards and --shard are about --indexes DIR: give it as well")


def _corpus(args: argparse.Namespace, paths: Optional[str]) -> Optional[Corpus]:
    return Corpus.of(read_manifests(paths, args.audio_root)) if paths else None


def _open_source(args: argparse.Namespace, device: str) -> Source:
    if args.cache:
        return CacheSource(Path(args.cache), args.layer, args.teacher, args.kind)
    return FrameSource(
        load_teacher(args.teacher, [args.layer], args.kind or "layer", args.dtype, device), args.batch_seconds
    )


def _settings(args: argparse.Namespace, source: Source, corpus: Corpus) -> QuantizerSettings:
    return QuantizerSettings(
        content_hash=source.content_hash,
        layer=args.layer,
        kind=source.kind,
        num_codebooks=args.num_codebooks,
        num_codes=args.num_codes,
        seed=args.seed,
        rows=_digest(corpus),
        max_seconds=args.max_seconds,
    )


def _digest(corpus: Corpus) -> str:
    return cache_files.digest_rows([corpus.ids[row] for row in corpus.rows], corpus.n_samples[corpus.rows])


def _fit(
    args: argparse.Namespace, source: Source, corpus: Corpus, settings: QuantizerSettings, console: Console
) -> None:
    """Writes --out."""
    rows = sample_rows(corpus.rows, corpus.n_samples, args.max_seconds or None, args.seed)
    bad = BadUtterances(len(rows), args.max_bad)
    with progress(console, "frames") as display:
        bar = AudioBar(display, len(rows), corpus.n_samples[rows].sum() / SAMPLE_RATE)
        utterances = sorted(source.read(corpus, rows, bar.advance), key=lambda utterance: utterance[0])
    bad.update(source.bad)
    console.left_out(bad)
    frames = np.concatenate([features for _, features in utterances] or [np.zeros((0, source.width), np.float32)])
    with progress(console, "codebooks") as display:
        task = display.add_task("", total=args.num_codebooks, done="")
        fitted = fit_codebooks(frames, args.num_codebooks, args.num_codes, args.seed, lambda: display.advance(task))
    facts = dict(teacher=source.spec, frame_rate_hz=source.frame_rate_hz, frames=len(frames), errors=fitted.errors)
    header = QuantizerHeader(**vars(settings), **facts)
    arrays = map(torch.from_numpy, (fitted.codebooks, fitted.mean, fitted.std))
    ResidualQuantizer(*arrays, header).save(args.out)
    left = ", ".join(f"{100 * error:.3g}" for error in fitted.errors)
    console.say(f"{args.out}: of the variance of {len(frames)} frames the first codebooks leave over {left} %")


class IndexWriter:
    """Writes the indexes of a corpus into the folder --indexes, as parts like those of a feature cache."""

    def __init__(self, args: argparse.Namespace, source: Source, corpus: Corpus, quantizer: ResidualQuantizer):
        self.directory, self.max_bad = Path(args.indexes), args.max_bad
        self.source, self.corpus = source, corpus
        self.quantizer = quantizer.to(pick_device(args.device))
        self.parts = cache_files.plan_parts(corpus.rows, corpus.n_samples)
        # Of features in a cache: their teacher's precision and the silence that was behind each utterance.
        given = source.cache.header if isinstance(source, CacheSource) else None
        manifest = args.index_manifest or args.manifest
        self.header = CacheHeader(
            teacher=source.spec,
            content_hash=source.content_hash,
            layers=(source.layer,),
            kind=source.kind,
            frame_rate_hz=source.frame_rate_hz,
            width=quantizer.bytes_per_frame,
            manifest=manifest or given.manifest,
            rows=_digest(corpus),
            num_parts=len(self.parts),
            dtype="uint8",
            teacher_dtype=given.teacher_dtype if given else args.dtype,
            tail_seconds=given.tail_seconds if given else 0.0,
            least_seconds=given.least_seconds if given else 0.0,
            codebooks=quantizer.content_hash,
        )

    def write(self, shard: Shard, console: Console) -> None:
        """The parts of this process that are not there yet; the index, once all of them are."""
        self.header.save(self.directory, "--indexes")
        mine = range(shard.index, len(self.parts), shard.total)
        todo = [part for part in mine if finished_part(self.directory, part, self.header) is None]
        bad = BadUtterances(len(self.corpus.rows), self.max_bad)
        self.source.bad.clear()
        if todo:
            cache_files.remove_index(self.directory)
            rows = np.concatenate([self.parts[part] for part in todo])
            with progress(console, f"indexes, {shard}" if shard.total > 1 else "indexes") as display:
                bar = AudioBar(display, len(rows), self.corpus.n_samples[rows].sum() / SAMPLE_RATE)
                for part in todo:
                    path = cache_files.part_paths(self.directory, part)[0]
                    with only_run(path, "--indexes"), errors_name(path):
                        self._write_part(part, bad, bar)
            console.say(bar.summary(str(self.directory)))
        indexes = [finished_part(self.directory, part, self.header) for part in range(len(self.parts))]
        if None in indexes:
            console.left_out(bad)
            console.say(f"{indexes.count(None)} of {len(indexes)} parts are left to other processes")
            return
        for index in indexes:
            bad.update(index.bad)
        console.left_out(bad)
        cache_files.write_index(self.directory, self.header, indexes)
        console.say(self._summary(sum(frames for index in indexes for frames in index.frames)))

    def _write_part(self, part: int, bad: BadUtterances, bar: AudioBar) -> None:
        rows = self.parts[part]
        samples = {self.corpus.ids[row]: int(self.corpus.n_samples[row]) for row in rows}
        if isinstance(self.source, CacheSource):  # which knows them better than its frames tell, silence included
            places = self.source.cache.places
            samples.update({name: places[name].samples for name in samples if name in places and places[name].samples})
        writer = PartWriter(self.directory, part, self.header)
        try:
            for name, features in self.source.read(self.corpus, rows, bar.advance):
                indexes = self.quantizer.encode(torch.from_numpy(features).to(self.quantizer.mean.device))
                writer.add(name, {self.source.layer: indexes}, len(indexes), samples[name])
            failed = dict(self.source.bad)
            self.source.bad.clear()
            bad.update(failed)
            writer.close(failed)
        except BaseException:
            writer.discard()
            raise

    def _summary(self, frames: int) -> str:
        size, plain = self.quantizer.bytes_per_frame, 2 * self.source.width
        return (
            f"{self.directory}: complete, {frames} frames of {size} bytes, {frames * size / 1e6:.4g} MB; as float16"
            f" features, of {plain} bytes, they would take {frames * plain / 1e6:.4g} MB, {plain / size:.4g} times as"
            " much"
        )
