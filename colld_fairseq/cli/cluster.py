"""`colld cluster`: k-means on a teacher layer; the codebook, and frame labels for fairseq's hubert_pretraining."""

import argparse
from pathlib import Path
from typing import Dict, List

import numpy as np
import torch
from rich.console import Console

from colld_fairseq.cli.clips import AudioBar, BadClips, progress
from colld_fairseq.cli.cluster_labels import parse_splits, write_dictionary, write_split
from colld_fairseq.cli.cluster_source import CacheSource, Corpus, Source
from colld_fairseq.cli.features import plan_parts
from colld_fairseq.data.manifest import join_manifests, read_manifest
from colld_fairseq.errors import ConfigError
from colld_fairseq.teachers.clustering import FrameClustering
from colld_fairseq.teachers.codebook import Codebook, CodebookHeader
from colld_fairseq.teachers.codes import TeacherCodes, codes_of

SAMPLE_FRAMES = 200  # a cluster, of the sample that the first centroids come from
FEWEST_FRAMES = 10  # a cluster
STEP_FRAMES = 8192  # of a mini-batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `colld cluster`."""
    parser.add_argument("--cache", metavar="DIR", help="take features from a cache of `colld features`")
    parser.add_argument("--manifest", metavar="A.tsv[,B.tsv]", help="clips to fit on (default: all of --cache)")
    parser.add_argument("--layer", type=int, required=True, help="teacher layer; 0 = input of the first block")
    parser.add_argument("--num-clusters", type=int, default=500, help="number of codes (default: 500, HuBERT's)")
    parser.add_argument("--out", required=True, metavar="FILE.safetensors", help="the codebook")
    parser.add_argument("--passes", type=int, default=5, help="times every clip is seen (default: 5)")
    parser.add_argument("--labels", metavar="DIR", help="also write labels for fairseq's hubert_pretraining here")
    parser.add_argument(
        "--label-manifests", nargs="+", default=[], metavar="SPLIT=A.tsv[,B.tsv]", help="what --labels labels"
    )
    parser.add_argument("--audio-root", metavar="DIR", help="folder that the manifests' paths start from")
    parser.add_argument("--seed", type=int, default=1, help="of the order of clips and the first centroids")
    parser.add_argument(
        "--max-bad", type=float, default=0.001, help="share of clips, at least one, that may be unreadable"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the codebook and the labels; prints what was done. Raises ColldError."""
    splits = parse_splits(args.label_manifests)
    if bool(splits) != bool(args.labels):
        raise ConfigError("--labels DIR and --label-manifests SPLIT=A.tsv belong together")
    console = Console()
    source = CacheSource(Path(args.cache), args.layer)
    corpus = Corpus.of(_read(args.manifest, args)) if args.manifest else source.everything()
    book = _fit(args, source, corpus, console)
    book.save(args.out)
    console.print(
        f"{args.out}: {args.num_clusters} clusters, inertia {book.header.inertia:.4g} a frame, "
        f"{book.header.frames} frames seen",
        soft_wrap=True,
    )
    if splits:
        directory = Path(args.labels)
        directory.mkdir(parents=True, exist_ok=True)
        write_dictionary(directory, len(book.centroids))
        for split, paths in splits.items():
            _label(args, source, split, Corpus.of(_read(",".join(paths), args)), codes_of(book), console)
    return 0


def _read(paths: str, args: argparse.Namespace):
    return join_manifests([read_manifest(path, audio_root=args.audio_root) for path in paths.split(",")])


def _fit(args: argparse.Namespace, source: Source, corpus: Corpus, console: Console) -> Codebook:
    clustering = FrameClustering(args.num_clusters, args.seed)
    bad = BadClips(len(corpus.rows), args.max_bad)
    sample: List[np.ndarray] = []
    frames = 0
    with progress(console, "k-means") as display:
        bar = AudioBar(display, args.passes * len(corpus.rows), args.passes * corpus.seconds)
        for number in range(args.passes):
            inertia = count = 0
            generator = np.random.default_rng((args.seed, number))
            shards = plan_parts(generator.permutation(corpus.rows), corpus.n_samples)
            for shard, rows in enumerate(shards):
                sample.append(_shard(source, corpus, rows, generator, bar))
                bad.update(source.bad)
                if clustering.model is None:
                    total = sum(map(len, sample))
                    if total < SAMPLE_FRAMES * args.num_clusters and shard + 1 < len(shards):
                        continue
                    if total < FEWEST_FRAMES * args.num_clusters:
                        raise ConfigError(
                            f"{total} frames are too few for {args.num_clusters} clusters; give more audio or "
                            f"at most --num-clusters {total // FEWEST_FRAMES}"
                        )
                    clustering.start(np.concatenate(sample))
                for buffer in sample:
                    for start in range(0, len(buffer), STEP_FRAMES):
                        inertia += clustering.update(buffer[start : start + STEP_FRAMES])
                    count += len(buffer)
                sample = []
            frames += count
    header = CodebookHeader(
        teacher=source.spec,
        content_hash=source.content_hash,
        layer=source.layer,
        kind=source.kind,
        frame_rate_hz=source.frame_rate_hz,
        frames=frames,
        inertia=inertia / max(count, 1),
        passes=args.passes,
        seed=args.seed,
    )
    mean, std = torch.from_numpy(clustering.mean), torch.from_numpy(clustering.std)
    return Codebook(clustering.centroids, mean, std, header)


def _shard(source: Source, corpus: Corpus, rows: np.ndarray, generator, bar: AudioBar) -> np.ndarray:
    """All frames [N, D] of the rows, in random order: neighbours are alike."""
    clips = [features for _, features in source.read(corpus, rows, bar)]
    frames = np.concatenate(clips) if clips else np.zeros((0, 1), dtype=np.float32)
    return frames[generator.permutation(len(frames))]


def _label(
    args: argparse.Namespace, source: Source, split: str, corpus: Corpus, codes: TeacherCodes, console: Console
) -> None:
    bad = BadClips(len(corpus.rows), args.max_bad)
    labels: Dict[str, np.ndarray] = {}
    with progress(console, f"labels {split}") as display:
        bar = AudioBar(display, len(corpus.rows), corpus.seconds)
        for rows in plan_parts(corpus.rows, corpus.n_samples):
            for name, features in source.read(corpus, rows, bar):
                labels[name] = codes.logits(torch.from_numpy(features), 1.0).argmax(-1).numpy().astype(np.int32)
            bad.update(source.bad)
    written = write_split(Path(args.labels), split, corpus, labels)
    console.print(f"{args.labels}/{split}.tsv, .km: {written} clips", soft_wrap=True)
