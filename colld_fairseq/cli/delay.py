"""`colld delay`: how much later a student says its labels at each latency than with full context.

The transcripts of a manifest are aligned with the audio in both modes, by CTC or on the transducer's lattice.
"""

import argparse
import json
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np
from rich.table import Table

from colld_fairseq.cli.terminal import AudioBar, Console, progress
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import AnyManifest, Row, read_manifests
from colld_fairseq.data.utterances import BadUtterances, distinct_rows, plan_batches, usable_batches
from colld_fairseq.decoding.label_delay import LabelDelay
from colld_fairseq.errors import AudioError, ColldError, ConfigError
from colld_fairseq.files import split_paths, written_atomically
from colld_fairseq.modules.latency import WHOLE, frames_of
from colld_fairseq.outputs import check_output
from colld_fairseq.recogniser import Recogniser, load_recogniser


def run(args: argparse.Namespace) -> int:
    """Prints a table; with --json writes it, too. Raises ColldError."""
    if args.json:
        inputs = [args.checkpoint, args.reference, *split_paths(args.manifest)]
        check_output(args.json, "--json", filter(None, inputs))
    options = {"decoder": args.decoder, "tgt_lang": args.lang, "vocab": args.vocab, "cmvn": args.cmvn}
    given = {name: value for name, value in options.items() if value}
    student = load_recogniser(args.checkpoint, device=args.device, **given)
    reference = load_recogniser(args.reference, device=args.device, **given) if args.reference else student
    check_reference(student, reference)
    manifest = read_manifests(args.manifest, args.audio_root)
    check_transcripts(manifest, student, reference)
    delays = measure(student, reference, manifest, args)
    rows = [{"chunk_ms": latency.chunk_ms, **delay.summary()} for latency, delay in delays.items()]
    print_table(rows)
    if args.json:
        names = ("checkpoint", "reference", "manifest", "lang", "left_context", "right_ms")
        settings = {name: getattr(args, name) for name in names}
        with written_atomically(args.json, "w", encoding="utf-8") as out:
            json.dump({**settings, "decoder": student.decoder, "delays": rows}, out, indent=1)
    return 0


def check_reference(student: Recogniser, reference: Recogniser) -> None:
    """ConfigError unless both models can be aligned, their frames and labels mean the same, and the reference can have
    full context."""
    for one in (student, reference):
        one.check_alignable()
    if reference.models[0].encoder.student.config.context == "causal":
        raise ConfigError("a causal student has no mode with full context: give another model's as --reference CKPT")
    rates = [one.models[0].encoder.student.frame_rate_hz for one in (student, reference)]
    if rates[0] != rates[1] or student.vocabulary.dictionary.symbols != reference.vocabulary.dictionary.symbols:
        raise ConfigError("--reference: it must have the student's frame rate and vocabulary")


def check_transcripts(manifest: AnyManifest, *recognisers: Recogniser) -> None:
    """ConfigError unless there are some, in languages that the models can be told."""
    if not manifest.has_text:
        raise ConfigError(
            f"{manifest.path}: no transcripts to align; a speech-to-text manifest has the column tgt_text"
        )
    for recogniser in recognisers:
        for part in manifest.parts if recogniser.needs_language else ():
            recogniser.task.check_languages(part)


class Latency(NamedTuple):
    """As `Recogniser.set_context` takes it."""

    chunk_ms: Union[int, str]
    left_context: str
    right_ms: int = 0


FULL = Latency(WHOLE, WHOLE)


def measure(
    student: Recogniser, reference: Recogniser, manifest: AnyManifest, args: argparse.Namespace
) -> Dict[Latency, LabelDelay]:
    """Delays over all utterances that can be aligned; the others are named."""
    reference.limit_context(*FULL)
    rights = [0 if chunk_ms == WHOLE else args.right_ms for chunk_ms in args.chunk_ms]
    latencies = [Latency(chunk_ms, args.left_context, right) for chunk_ms, right in zip(args.chunk_ms, rights)]
    delays = {latency: no_labels_yet(student, latency) for latency in latencies}
    console, ids = Console(stderr=True), [manifest.text("id", row) for row in range(len(manifest))]
    rows = distinct_rows(ids)
    bad = BadUtterances(len(rows), args.max_bad)
    with progress(console, "aligning") as display:
        bar = AudioBar(display, len(rows), manifest.n_samples[rows].sum() / SAMPLE_RATE)
        for row, waveform in waveforms(student, manifest, ids, rows, bad, bar):
            try:
                add_utterance(delays, student, reference, row, waveform)
            except ConfigError:  # which is no fault of this utterance
                raise
            except ColldError as error:
                bad.update({row.id: str(error)})
    console.left_out(bad)
    if len(bad) == len(rows):
        raise AudioError(bad.report("which leaves none"))
    return delays


def no_labels_yet(student: Recogniser, latency: Latency) -> LabelDelay:
    """Warns of what the student was not trained for. ConfigError where it cannot have this latency."""
    student.limit_context(*latency)
    encoder = student.models[0].encoder.student
    return LabelDelay(1000 / encoder.frame_rate_hz, frames_of(encoder, latency.chunk_ms), encoder.right)


def waveforms(
    student: Recogniser, manifest: AnyManifest, ids: List[str], rows: np.ndarray, bad: BadUtterances, bar: AudioBar
) -> Iterator[Tuple[Row, np.ndarray]]:
    """`rows` with their waveforms [N]; what cannot be read goes to `bad`. ids: of all rows of the manifest."""
    row_of = {ids[row]: row for row in rows.tolist()}
    batches = plan_batches(rows, manifest.n_samples, 0)  # one by one
    for names, read in usable_batches(manifest, ids, batches, student.output_lengths, bad, bar.advance):
        yield from ((manifest.row(row_of[name]), waveform.numpy()) for name, waveform in zip(names, read))


def add_utterance(
    delays: Dict[Latency, LabelDelay], student: Recogniser, reference: Recogniser, row: Row, waveform: np.ndarray
) -> None:
    """To all `delays`, or to none. Raises ColldError where it cannot be aligned."""
    tokens = tokens_of(student, row)
    full = aligned(reference, FULL, row, waveform, tokens)
    late = [aligned(student, latency, row, waveform, tokens) for latency in delays]
    for delay, frames in zip(delays.values(), late):
        delay.add(frames, full)


def tokens_of(recogniser: Recogniser, row: Row) -> List[int]:
    """Of the text that the model was trained to write."""
    if recogniser.decoder == "ctc":
        return recogniser.task.encode_ctc_target(row).tolist()
    return recogniser.vocabulary.encode(row.tgt_text, append_eos=False).tolist()


def aligned(recogniser: Recogniser, latency: Latency, row: Row, waveform: np.ndarray, tokens: List[int]) -> List[int]:
    """Frames of the tokens at one latency."""
    recogniser.set_context(*latency)
    return recogniser.align(waveform, tokens, row.tgt_lang, row.src_lang)


def print_table(rows: List[Dict[str, Any]]) -> None:
    def written(value: Optional[float]) -> str:
        return "-" if value is None else f"{value:.0f}"

    table = Table("chunk (ms)", "labels", "later (ms)", "90 %", "said after (ms)", "90 %")
    for row in rows:
        values = [written(row[name]) for name in ("shift_ms", "shift_90_ms", "wait_ms", "wait_90_ms")]
        table.add_row(str(row["chunk_ms"]), str(row["labels"]), *values)
    Console().print(table)
