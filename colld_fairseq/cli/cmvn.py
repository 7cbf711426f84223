"""`colld cmvn`: mean and standard deviation of a corpus' filterbanks, for `--cmvn FILE` in training."""

import argparse
from typing import Iterator

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from colld_fairseq.cli.clips import AudioBar, BadClips, distinct_rows, progress, read_ahead, sample_rows, usable
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.fbank import GlobalCmvn, fbank_length, log_mel_fbank
from colld_fairseq.data.manifest import join_manifests, read_manifest
from colld_fairseq.errors import ConfigError

CLIPS_AT_ONCE = 16  # read between two looks at the progress bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `colld cmvn`."""
    parser.add_argument("--manifest", required=True, metavar="A.tsv[,B.tsv]", help="manifests, joined")
    parser.add_argument("--out", required=True, metavar="STATS.npz", help="file to write")
    parser.add_argument("--audio-root", metavar="DIR", help="folder that the manifests' paths start from")
    parser.add_argument("--max-hours", type=float, help="hours of clips drawn at random (default: everything)")
    parser.add_argument("--seed", type=int, default=1, help="of the draw (default: %(default)s)")
    parser.add_argument(
        "--max-bad", type=float, default=0.001, help="share of clips, at least one, that may be unreadable"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the file; prints what it rests on. Raises ColldError."""
    if args.max_hours is not None and args.max_hours <= 0:
        raise ConfigError(f"--max-hours {args.max_hours:g}: must be above 0; leave it out to take everything")
    console = Console()
    manifest = join_manifests([read_manifest(path, args.audio_root) for path in args.manifest.split(",")])
    ids = manifest.ids
    max_seconds = None if args.max_hours is None else 3600 * args.max_hours
    rows = sample_rows(distinct_rows(ids), manifest.n_samples, max_seconds, args.seed)
    bad = BadClips(len(rows), args.max_bad)
    with progress(console, "filterbanks") as display:
        bar = AudioBar(display, len(rows), manifest.n_samples[rows].sum() / SAMPLE_RATE)
        statistics = GlobalCmvn.fit(_filterbanks(manifest, ids, rows, bad, bar))
    statistics.save(args.out)
    bad.show(console)
    console.print(bar.summary(args.out), soft_wrap=True)
    return 0


def _filterbanks(manifest, ids, rows: np.ndarray, bad: BadClips, bar: AudioBar) -> Iterator[np.ndarray]:
    """[T, 80] of every clip that can be read, in the manifest's order."""
    batches = np.split(rows, range(CLIPS_AT_ONCE, len(rows), CLIPS_AT_ONCE))
    for clips in read_ahead(manifest, ids, batches):
        failed = {}
        waveforms = usable(clips, _frames, failed)[1]
        bad.update(failed)
        for waveform in waveforms:
            yield log_mel_fbank(waveform.numpy())
        bar.advance(len(clips), sum(map(len, waveforms)) / SAMPLE_RATE)


def _frames(num_samples: Tensor) -> Tensor:
    return torch.from_numpy(fbank_length(num_samples.numpy()))
