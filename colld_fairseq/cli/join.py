"""`colld join`: utterances of one language joined to windows, as audio files and a manifest.

For `colld features`, which needs audio that stays the same; a teacher that runs along has new windows in every epoch
(--join-seconds of the task). How they are made: `data.joining`.
"""

import argparse
import os
import re
from pathlib import Path
from typing import Iterator, List

import numpy as np
import soundfile

from colld_fairseq.cli.terminal import AudioBar, Console, progress
from colld_fairseq.data.audio import SAMPLE_RATE, read_audio
from colld_fairseq.data.joining import Joining, Window, groups_of, join
from colld_fairseq.data.manifest import AnyManifest, Row, read_manifests, require_waveforms
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.data.utterances import BadUtterances
from colld_fairseq.errors import AudioError, ConfigError
from colld_fairseq.outputs import check_output, only_run

WINDOW = re.compile(r"\d{6}\.flac")  # the audio of one


def run(args: argparse.Namespace) -> int:
    """Writes the audio files, then the manifest. Raises ColldError."""
    console = Console()
    manifest = read_manifests(args.manifest, args.audio_root)
    require_waveforms(manifest, "this command")
    check_output(args.out, "--out", manifest.files)
    out = Path(args.out)
    folder = out.with_suffix("")
    if out.suffix != ".tsv":
        raise ConfigError(f"--out {out}: give the manifest's name, NAME.tsv; the audio is written to NAME/")
    check_apart(manifest, folder)
    windows = plan(args, manifest)
    bad, cut = BadUtterances(len(manifest), args.max_bad), []
    with only_run(out), progress(console, "join") as display:
        empty(folder, out)
        bar = AudioBar(display, len(windows), sum(window.n_samples for window in windows) / SAMPLE_RATE)
        write_manifest(out, written(windows, manifest, folder, args.seconds, bad, cut, bar))
    console.left_out(bad)
    if cut:
        console.say(f"{len(cut)} windows lack the end of an utterance longer than {args.seconds:g} s, and have no text")
    console.say(f"{bar.summary(str(out))}; each utterance {args.copies} times")
    return 0


def check_apart(manifest: AnyManifest, folder: Path) -> None:
    """ConfigError where audio to be read lies in the folder that is emptied for the windows."""
    emptied = folder.resolve()
    for path in map(manifest.audio_path, range(len(manifest))):
        if WINDOW.match(os.path.basename(path)) and Path(path).resolve().parent == emptied:
            raise ConfigError(
                f"--out: {folder} is emptied for the windows, and {path} is to be read: give another name"
            )


def empty(folder: Path, manifest: Path) -> None:
    """Make the folder, without the windows that an earlier run may have left and first without their manifest, which
    would name other audio if this run is stopped; ConfigError for anything else in it."""
    folder.mkdir(parents=True, exist_ok=True)
    windows = {path for path in folder.iterdir() if WINDOW.fullmatch(path.name)}
    others = sorted(set(folder.iterdir()) - windows)
    if others:
        raise ConfigError(f"{folder} is to hold the windows alone, but there is {others[0].name}: take another --out")
    if windows:
        manifest.unlink(missing_ok=True)
    for path in windows:
        path.unlink()


def plan(args: argparse.Namespace, manifest: AnyManifest) -> List[Window]:
    """The windows of all copies; everything is drawn from --seed."""
    generator = np.random.default_rng(args.seed)
    joining, groups = Joining(args.seconds, args.padded), groups_of(manifest)
    orders = [generator.permutation(len(manifest)) for _ in range(args.copies)]
    return [w for order in orders for w in joining.windows(order, manifest.n_samples, groups, generator)]


def written(windows, manifest: AnyManifest, folder: Path, seconds: float, bad, cut: List[int], bar) -> Iterator[Row]:
    """The row of each window, once its audio is written; what cannot be read is entered in `bad`. A window that an
    utterance does not fit in is entered in `cut` and has no text: that would go on where the audio ends."""
    max_samples = int(seconds * SAMPLE_RATE)
    for index, window in enumerate(windows):
        rows, pieces = [], []
        for row in map(manifest.row, window.rows):
            try:
                pieces.append(read_audio(row.audio))
                rows.append(row)
            except AudioError as error:
                bad.update({row.id: str(error)})
        if rows:
            waveform = window.audio(pieces, max_samples)
            path = (folder / f"{index:06d}.flac").resolve()
            soundfile.write(path, waveform, SAMPLE_RATE, subtype="PCM_16")
            row = join(rows)._replace(id=f"{folder.name}-{index:06d}", audio=str(path), n_samples=len(waveform))
            if sum(map(len, pieces)) > max_samples:
                cut.append(index)
                row = row._replace(tgt_text="", src_text="")
            yield row
        bar.advance(1, window.n_samples / SAMPLE_RATE)
