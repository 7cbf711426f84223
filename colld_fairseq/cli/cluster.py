"""`colld cluster`: k-means on a teacher layer; the codebook, and frame labels for fairseq's hubert_pretraining."""

import argparse
from pathlib import Path
from typing import Dict

import numpy as np
import torch
from rich.console import Console

from colld_fairseq.cli.clips import AudioBar, BadClips, progress
from colld_fairseq.cli.cluster_fit import ClusterFit
from colld_fairseq.cli.cluster_labels import parse_splits, write_dictionary, write_split
from colld_fairseq.cli.cluster_source import CacheSource, Corpus, Source, TeacherSource
from colld_fairseq.cli.features import digest_rows, plan_parts
from colld_fairseq.data.manifest import JoinedManifest, join_manifests, read_manifest
from colld_fairseq.errors import ConfigError
from colld_fairseq.teachers import load_teacher
from colld_fairseq.teachers.base import DTYPES, KINDS
from colld_fairseq.teachers.codebook import Codebook, FitSettings
from colld_fairseq.teachers.codes import codes_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `colld cluster`."""
    parser.add_argument("--layer", type=int, required=True, help="teacher layer; 0 = input of the first block")
    parser.add_argument("--out", required=True, metavar="FILE.safetensors", help="the codebook; finished if begun")
    parser.add_argument("--num-clusters", type=int, default=500, help="number of codes (default: 500, HuBERT's)")
    parser.add_argument("--passes", type=int, default=2, help="times every clip is seen (default: 2)")
    parser.add_argument("--seed", type=int, default=1, help="of the first centroids and the order of clips")
    parser.add_argument("--manifest", metavar="A.tsv[,B.tsv]", help="clips to fit on; default: all of --cache")
    parser.add_argument("--teacher", metavar="SPEC", help="hf:DIR or fairseq:FILE.pt; with --cache it is checked")
    parser.add_argument("--cache", metavar="DIR", help="features of `colld features`, in place of a teacher")
    parser.add_argument("--kind", choices=KINDS, help="block or feed-forward outputs; default: layer, or --cache's")
    parser.add_argument("--labels", metavar="DIR", help="also write labels for fairseq's hubert_pretraining here")
    parser.add_argument(
        "--label-manifests", nargs="+", default=[], metavar="SPLIT=A.tsv[,B.tsv]", help="the clips to label"
    )
    parser.add_argument("--audio-root", metavar="DIR", help="folder that the manifests' paths start from")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="precision of the teacher")
    parser.add_argument(
        "--batch-seconds", type=float, default=60.0, help="audio of a teacher's batch, padding included"
    )
    parser.add_argument("--device", help="of the teacher, cpu or cuda; default: cuda where there is one")
    parser.add_argument(
        "--max-bad", type=float, default=0.001, help="share of clips, at least one, that may be unreadable"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the codebook and the labels; prints what was done. Raises ColldError."""
    splits = _check(args)
    console = Console()
    corpora = {split: Corpus.of(_read(paths, args)) for split, paths in splits.items()}
    fitted_on = Corpus.of(_read(args.manifest.split(","), args)) if args.manifest else None
    source = _open_source(args)
    corpus = fitted_on or source.everything()
    book = _fit(args, source, corpus, console)
    if splits:
        write_dictionary(Path(args.labels), len(book.centroids))
    for split, labelled in corpora.items():
        _label(args, source, split, labelled, book, console)
    return 0


def _check(args: argparse.Namespace) -> Dict[str, list]:
    """Manifests of each split to label. Raises ConfigError on options that do not go together."""
    splits = parse_splits(args.label_manifests)
    if bool(splits) != bool(args.labels):
        raise ConfigError("--labels DIR and --label-manifests SPLIT=A.tsv belong together")
    if not args.cache and not (args.teacher and args.manifest):
        raise ConfigError("give --cache DIR, or --teacher SPEC and --manifest A.tsv")
    for name in ("num_clusters", "passes"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be 1 or more")
    return splits


def _read(paths, args: argparse.Namespace) -> JoinedManifest:
    return join_manifests([read_manifest(path, audio_root=args.audio_root) for path in paths])


def _open_source(args: argparse.Namespace) -> Source:
    if args.cache:
        return CacheSource(Path(args.cache), args.layer, args.teacher, args.kind)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    teacher = load_teacher(args.teacher, [args.layer], args.kind or "layer", args.dtype, device)
    return TeacherSource(teacher, args.batch_seconds)


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
        console.print(f"{out} is there already", soft_wrap=True)
        return book
    fit = ClusterFit(source, corpus, settings, args.max_bad, out.with_name(f"{out.name}.state"))
    book = fit.run(console)
    book.save(out)
    fit.finish()
    facts = f"{args.num_clusters} clusters, inertia {book.header.inertia:.4g} a frame, {book.header.frames} frames"
    console.print(f"{out}: {facts}", soft_wrap=True)
    return book


def _label(
    args: argparse.Namespace, source: Source, split: str, corpus: Corpus, book: Codebook, console: Console
) -> None:
    """SPLIT.tsv and SPLIT.km; clips that cannot be used are left out of both."""
    codes = codes_of(book)
    bad = BadClips(len(corpus.rows), args.max_bad)
    labels: Dict[str, np.ndarray] = {}
    source.bad.clear()
    with progress(console, f"labels {split}") as display:
        bar = AudioBar(display, len(corpus.rows), corpus.seconds)
        for rows in plan_parts(corpus.rows, corpus.n_samples):
            for name, features in source.read(corpus, rows, bar):
                labels[name] = codes.logits(torch.from_numpy(features), 1.0).argmax(-1).numpy().astype(np.int32)
            bad.update(source.bad)
    bad.show(console)
    written = write_split(Path(args.labels), split, corpus, labels)
    console.print(f"{args.labels}/{split}.tsv and .km: {written} clips", soft_wrap=True)
