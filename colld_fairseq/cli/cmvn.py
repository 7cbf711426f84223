"""`colld cmvn`: mean and standard deviation of a corpus' filterbanks, for `--cmvn FILE` in training."""

import argparse
from typing import Iterator

import numpy as np

from colld_fairseq.cli.terminal import AudioBar, Console, progress
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.fbank import GlobalCmvn, fbank_length, log_mel_fbank
from colld_fairseq.data.manifest import read_manifests
from colld_fairseq.data.utterances import BadUtterances, distinct_rows, read_ahead, sample_rows, usable
from colld_fairseq.outputs import check_output

AT_ONCE = 16  # utterances read between two looks at the progress bar


def run(args: argparse.Namespace) -> int:
    """Writes the file; prints what it rests on. Raises ColldError."""
    console = Console()
    manifest = read_manifests(args.manifest, args.audio_root)
    check_output(args.out, "--out", manifest.files)
    ids = manifest.ids
    max_seconds = None if args.max_hours is None else 3600 * args.max_hours
    rows = sample_rows(distinct_rows(ids), manifest.n_samples, max_seconds, args.seed)
    bad = BadUtterances(len(rows), args.max_bad)
    with progress(console, "filterbanks") as display:
        bar = AudioBar(display, len(rows), manifest.n_samples[rows].sum() / SAMPLE_RATE)
        statistics = GlobalCmvn.fit(_filterbanks(manifest, ids, rows, bad, bar))
    statistics.save(args.out)
    console.left_out(bad)
    console.say(bar.summary(args.out))
    return 0


def _filterbanks(manifest, ids, rows: np.ndarray, bad: BadUtterances, bar: AudioBar) -> Iterator[np.ndarray]:
    """[T, 80] of every utterance that can be read, in the manifest's order."""
    batches = np.split(rows, range(AT_ONCE, len(rows), AT_ONCE))
    for utterances in read_ahead(manifest, ids, batches):
        failed = {}
        waveforms = usable(utterances, fbank_length, failed)[1]
        bad.update(failed)
        for waveform in waveforms:
            yield log_mel_fbank(waveform.numpy())
        bar.advance(len(utterances), sum(map(len, waveforms)) / SAMPLE_RATE)
