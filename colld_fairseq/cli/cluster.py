"""`colld cluster`: k-means on a teacher layer; the codebook, and frame labels for fairseq's hubert_pretraining."""

import argparse
from pathlib import Path
from typing import Dict, List

import numpy as np
import torch

from colld_fairseq.cli.terminal import AudioBar, Console, progress
from colld_fairseq.data.manifest import join_manifests, read_manifest, read_manifests
from colld_fairseq.data.utterances import BadUtterances
from colld_fairseq.devices import pick_device
from colld_fairseq.errors import ConfigError
from colld_fairseq.outputs import check_folder, check_output, only_run
from colld_fairseq.teachers import load_teacher
from colld_fairseq.teachers.cache_files import digest_rows, plan_parts
from colld_fairseq.teachers.cluster_fit import ClusterFit
from colld_fairseq.teachers.codebook import Codebook, FitSettings
from colld_fairseq.teachers.codes import codes_of
from colld_fairseq.teachers.frame_source import CacheSource, Corpus, FrameSource, Source
from colld_fairseq.teachers.hubert_labels import parse_splits, split_files, write_dictionary, write_split


def run(args: argparse.Namespace) -> int:
    """Writes the codebook and the labels; prints what was done. Raises ColldError."""
    splits = _check(args)
    console = Console()
    corpora = {
        split: Corpus.of(join_manifests([read_manifest(path, args.audio_root) for path in paths]))
        for split, paths in splits.items()
    }
    fitted_on = Corpus.of(read_manifests(args.manifest, args.audio_root)) if args.manifest else None
    _check_outputs(args, [corpus for corpus in (*corpora.values(), fitted_on) if corpus is not None], list(corpora))
    with only_run(args.out):
        source = _open_source(args)
        corpus = fitted_on or source.everything()
        book = _fit(args, source, corpus, console)
        if splits:
            write_dictionary(Path(args.labels), len(book.centroids))
        for split, labeled in corpora.items():
            _label(args, source, split, labeled, book, console)
    return 0


def _check(args: argparse.Namespace) -> Dict[str, list]:
    """Manifests of each split to label. Raises ConfigError on options that do not go together."""
    splits = parse_splits(args.label_manifests)
    if bool(splits) != bool(args.labels):
        raise ConfigError("--labels DIR and --label-manifests SPLIT=A.tsv belong together")
    if not args.cache and not (args.teacher and args.manifest):
        raise ConfigError("give --cache DIR, or --teacher SPEC and --manifest A.tsv")
    return splits


def _check_outputs(args: argparse.Namespace, corpora: List[Corpus], splits: List[str]) -> None:
    """Before hours of work: everything can be written, and nothing is read from there."""
    read = [path for corpus in corpora for path in corpus.manifest.files]
    check_output(args.out, "--out", read)
    if args.labels:
        check_folder(args.labels, "--labels")
        for path in split_files(Path(args.labels), splits):
            check_output(path, "--labels", [*read, args.out])


def _open_source(args: argparse.Namespace) -> Source:
    if args.cache:
        return CacheSource(Path(args.cache), args.layer, args.teacher, args.kind)
    teacher = load_teacher(args.teacher, [args.layer], args.kind or "layer", args.dtype, pick_device(args.device))
    return FrameSource(teacher, args.batch_seconds)


def _fit(args: argparse.Namespace, source: Source, corpus: Corpus, console: Console) -> Codebook:
    """The codebook in --out: read, where it is there already."""
    out = Path(args.out)
    settings = FitSettings(
        content_hash=source.content_hash,
        layer=args.layer,
        kind=source.kind,
        num_clusters=args.num_clusters,
        passes=args.passes,
        seed=args.seed,
        rows=digest_rows([corpus.ids[row] for row in corpus.rows], corpus.n_samples[corpus.rows]),
    )
    if out.is_file():
        book = Codebook.load(out)
        settings.must_equal(book.header, out)
        console.say(f"{out} is there already")
        return book
    fit = ClusterFit(source, corpus, settings, args.max_bad, out.with_name(f"{out.name}.state"))
    if fit.resume():
        console.say(f"goes on from {fit.path}")
    with progress(console, "k-means") as display:
        bar = AudioBar(display, *fit.left())
        book = fit.run(bar.advance)
    console.left_out(fit.bad)
    console.say(bar.summary("k-means"))
    book.save(out)
    fit.finish()
    facts = f"{args.num_clusters} clusters, inertia {book.header.inertia:.4g} per frame, {book.header.frames} frames"
    console.say(f"{out}: {facts}")
    return book


def _label(
    args: argparse.Namespace, source: Source, split: str, corpus: Corpus, book: Codebook, console: Console
) -> None:
    """SPLIT.tsv and SPLIT.km; utterances that cannot be used are left out of both."""
    codes = codes_of(book)
    bad = BadUtterances(len(corpus.rows), args.max_bad)
    labels: Dict[str, np.ndarray] = {}
    source.bad.clear()
    with progress(console, f"labels {split}") as display:
        bar = AudioBar(display, len(corpus.rows), corpus.seconds)
        for rows in plan_parts(corpus.rows, corpus.n_samples):
            for name, features in source.read(corpus, rows, bar.advance):
                labels[name] = codes.logits(torch.from_numpy(features), 1.0).argmax(-1).numpy().astype(np.int32)
            bad.update(source.bad)
    console.left_out(bad)
    written = write_split(Path(args.labels), split, corpus, labels)
    console.say(f"{args.labels}/{split}.tsv and .km: {written} utterances")
