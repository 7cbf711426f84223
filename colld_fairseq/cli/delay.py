"""`colld delay`: how much later a student says its labels at each latency than with full context.

The transcripts of a manifest are aligned with the audio in both modes, by CTC or on the transducer's lattice.
"""

import argparse
import json
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from rich.table import Table

from colld_fairseq.cli.terminal import AudioBar, Console, progress
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import AnyManifest, Row, read_manifests
from colld_fairseq.data.utterances import BadUtterances, distinct_rows, plan_batches, usable_batches
from colld_fairseq.decoding.label_delay import LabelDelay
from colld_fairseq.errors import AudioError, ColldError, ConfigError
from colld_fairseq.files import written_atomically
from colld_fairseq.modules.latency import WHOLE, frames_of, right_of
from colld_fairseq.recogniser import Recogniser, load_recogniser


def run(args: argparse.Namespace) -> int:
    """Prints a table; with --json writes it, too. Raises ColldError."""
    options = {"decoder": args.decoder, "tgt_lang": args.lang, "vocab": args.vocab, "cmvn": args.cmvn}
    given = {name: value for name, value in options.items() if value}
    student = load_recogniser(args.checkpoint, device=args.device, **given)
    reference = load_recogniser(args.reference, device=args.device, **given) if args.reference else student
    check_reference(student, reference)
    manifest = read_manifests(args.manifest, args.audio_root)
    if not manifest.has_text:
        raise ConfigError(
            f"{args.manifest}: no transcripts to align; a speech-to-text manifest has the column tgt_text"
        )
    delays = measure(student, reference, manifest, args)
    rows = [{"chunk_ms": chunk_ms, **delay.summary()} for chunk_ms, delay in delays.items()]
    print_table(rows)
    settings = {name: getattr(args, name) for name in ("checkpoint", "reference", "left_context", "right_ms")}
    if args.json:
        with written_atomically(args.json, "w", encoding="utf-8") as out:
            json.dump({**settings, "delays": rows}, out, indent=1)
    return 0


def check_reference(student: Recogniser, reference: Recogniser) -> None:
    """ConfigError unless frames and labels of both models mean the same, and the reference can have full context."""
    if reference.models[0].encoder.student.config.context == "causal":
        raise ConfigError("a causal student has no mode with full context: give another model's as --reference CKPT")
    rates = [one.models[0].encoder.student.frame_rate_hz for one in (student, reference)]
    if rates[0] != rates[1] or student.vocabulary.dictionary.symbols != reference.vocabulary.dictionary.symbols:
        raise ConfigError("--reference: it must have the student's frame rate and vocabulary")


def measure(
    student: Recogniser, reference: Recogniser, manifest: AnyManifest, args: argparse.Namespace
) -> Dict[Any, LabelDelay]:
    """Latency -> delays over all utterances that can be aligned; the others are named."""
    model = student.models[0].encoder.student
    frame_ms = 1000 / model.frame_rate_hz
    right = {chunk_ms: 0 if chunk_ms == WHOLE else args.right_ms for chunk_ms in args.chunk_ms}
    delays = {
        chunk_ms: LabelDelay(frame_ms, size, right_of(model, right[chunk_ms], size))
        for chunk_ms, size in ((chunk_ms, frames_of(model, chunk_ms)) for chunk_ms in args.chunk_ms)
    }
    reference.limit_context(WHOLE, WHOLE)
    for chunk_ms in delays:  # before anything is read: what cannot be, and what the training has against it
        student.limit_context(chunk_ms, args.left_context, right[chunk_ms])
    console = Console(stderr=True)
    rows = distinct_rows([manifest.text("id", row) for row in range(len(manifest))])
    bad = BadUtterances(len(rows), args.max_bad)
    with progress(console, "aligning") as display:
        bar = AudioBar(display, len(rows), manifest.n_samples[rows].sum() / SAMPLE_RATE)
        for row, waveform in waveforms(student, manifest, rows, bad, bar):
            utterance = manifest.row(row)
            tokens = tokens_of(student, utterance)
            try:
                full = aligned(reference, waveform, tokens, utterance.tgt_lang, WHOLE, WHOLE)
                late = [
                    aligned(student, waveform, tokens, utterance.tgt_lang, chunk_ms, args.left_context, right[chunk_ms])
                    for chunk_ms in delays
                ]
            except ColldError as error:
                bad.update({utterance.id: str(error)})
                continue
            for delay, frames in zip(delays.values(), late):
                delay.add(frames, full)
    console.left_out(bad)
    if len(bad) == len(rows):
        raise AudioError(bad.report("which leaves none"))
    return delays


def tokens_of(recogniser: Recogniser, row: Row) -> List[int]:
    """Of the text that the model was trained to write."""
    if recogniser.decoder == "ctc":
        return recogniser.task.encode_ctc_target(row).tolist()
    return recogniser.vocabulary.encode(row.tgt_text, append_eos=False).tolist()


def waveforms(
    student: Recogniser, manifest: AnyManifest, rows, bad: BadUtterances, bar: AudioBar
) -> Iterator[Tuple[int, torch.Tensor]]:
    """Rows with their waveforms [N]."""
    ids = [manifest.text("id", row) for row in range(len(manifest))]
    row_of = {ids[row]: row for row in rows.tolist()}
    batches = plan_batches(rows, manifest.n_samples, 0)  # one by one
    for names, read in usable_batches(manifest, ids, batches, student.output_lengths, bad, bar.advance):
        yield from ((row_of[name], waveform) for name, waveform in zip(names, read))


def aligned(
    recogniser: Recogniser, waveform: torch.Tensor, tokens: List[int], language: str, *latency: Any
) -> List[int]:
    """Frames of the tokens at one latency, as `Recogniser.set_context` takes it."""
    recogniser.set_context(*latency)
    return recogniser.align(waveform.numpy(), tokens, language)


def print_table(rows: List[Dict[str, Any]]) -> None:
    def written(value: Optional[float]) -> str:
        return "-" if value is None else f"{value:.0f}"

    table = Table("chunk (ms)", "labels", "later (ms)", "90 %", "said after (ms)", "90 %")
    for row in rows:
        values = [written(row[name]) for name in ("shift_ms", "shift_90_ms", "wait_ms", "wait_90_ms")]
        table.add_row(str(row["chunk_ms"]), str(row["labels"]), *values)
    Console().print(table)
