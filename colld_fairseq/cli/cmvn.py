"""`colld cmvn`: mean and standard deviation of a corpus' filterbanks, for `--cmvn FILE` in training."""

import argparse

import numpy as np

from colld_fairseq.cli.terminal import AudioBar, Console, progress
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.fbank import GlobalCmvn, fbank_length, log_mel_fbank
from colld_fairseq.data.manifest import read_manifests
from colld_fairseq.data.utterances import BadUtterances, distinct_rows, sample_rows, usable_batches
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
        batches = np.split(rows, range(AT_ONCE, len(rows), AT_ONCE))
        utterances = usable_batches(manifest, ids, batches, fbank_length, bad, bar.advance)
        statistics = GlobalCmvn.fit(log_mel_fbank(one.numpy()) for _, waveforms in utterances for one in waveforms)
    statistics.save(args.out)
    console.left_out(bad)
    console.say(bar.summary(args.out))
    return 0
