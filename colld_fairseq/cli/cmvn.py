"""`colld cmvn`: mean and standard deviation of a corpus' filterbanks, for `--cmvn FILE` in training."""

import argparse
from functools import partial
from typing import Iterator

import numpy as np

from colld_fairseq.cli.terminal import AudioBar, Console, progress
from colld_fairseq.constants import NUM_BINS, SAMPLE_RATE
from colld_fairseq.data.fbank import GlobalCmvn, fbank_length, log_mel_fbank
from colld_fairseq.data.manifest import read_manifests, require_waveforms
from colld_fairseq.data.stored_fbank import STORED_VARIANT, read_stored_fbank
from colld_fairseq.data.utterances import BadUtterances, distinct_rows, sample_rows, usable_batches
from colld_fairseq.errors import AudioError
from colld_fairseq.outputs import check_output

AT_ONCE = 16  # utterances read between two looks at the progress bar


def run(args: argparse.Namespace) -> int:
    """Writes the file; prints what it rests on. Raises ColldError."""
    console = Console()
    manifest = read_manifests(args.manifest, args.audio_root)
    check_output(args.out, "--out", manifest.files)
    if args.fbank != STORED_VARIANT:
        require_waveforms(manifest, f"--fbank {args.fbank}", f"; stored ones are of --fbank {STORED_VARIANT}")
    ids = manifest.ids
    max_seconds = None if args.max_hours is None else 3600 * args.max_hours
    rows = sample_rows(distinct_rows(ids), manifest.n_samples, max_seconds, args.seed)
    bad = BadUtterances(len(rows), args.max_bad)
    with progress(console, "filterbanks") as display:
        bar = AudioBar(display, len(rows), manifest.n_samples[rows].sum() / SAMPLE_RATE)
        if manifest.stored_fbank[rows].all():
            features = _stored_filterbanks(manifest, ids, rows, bad, bar)
        else:
            batches = np.split(rows, range(AT_ONCE, len(rows), AT_ONCE))
            utterances = usable_batches(
                manifest, ids, batches, partial(fbank_length, variant=args.fbank), bad, bar.advance
            )
            features = (
                log_mel_fbank(one.numpy(), variant=args.fbank) for _, waveforms in utterances for one in waveforms
            )
        statistics = GlobalCmvn.fit(features)
    statistics.save(args.out, args.fbank)
    console.left_out(bad)
    console.say(bar.summary(args.out))
    return 0


def _stored_filterbanks(manifest, ids, rows: np.ndarray, bad: BadUtterances, bar: AudioBar) -> Iterator[np.ndarray]:
    for row in rows.tolist():
        try:
            yield read_stored_fbank(manifest.audio_path(row), NUM_BINS)
        except AudioError as error:
            bad.update({ids[row]: str(error)})
        bar.advance(1, manifest.n_samples[row] / SAMPLE_RATE)
