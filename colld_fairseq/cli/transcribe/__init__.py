"""`colld transcribe`: audio to text with a trained recogniser or translator; pseudo-labels for unlabeled audio."""

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from functools import partial
from typing import Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from rich.progress import Progress

from colld_fairseq.cli.options import ENDPOINT
from colld_fairseq.cli.terminal import AudioBar, Console, progress
from colld_fairseq.cli.transcribe import streaming
from colld_fairseq.cli.transcribe.inputs import Utterances, read_files, read_utterances_of_manifests
from colld_fairseq.cli.transcribe.long import Cutting, transcribe_recording
from colld_fairseq.cli.transcribe.output import Journal, Result, check_places, write_results
from colld_fairseq.cli.transcribe.words import Timed, parse_formats, write_words
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import Row
from colld_fairseq.data.text_files import STANDARD_INPUT
from colld_fairseq.data.utterances import BadUtterances, plan_batches, usable_batches
from colld_fairseq.data.voice_activity import VoiceActivity
from colld_fairseq.decoding.real_time import Latency
from colld_fairseq.errors import AudioError, ConfigError
from colld_fairseq.files import split_paths
from colld_fairseq.named_values import all_named
from colld_fairseq.outputs import only_run, refuse_inputs
from colld_fairseq.recogniser import TRAINED, Recogniser, load_recogniser

# Transcribes utterances: results by id as they are known; what cannot be used goes to BadUtterances.
Work = Callable[[Utterances, BadUtterances, AudioBar], Iterator[Dict[str, Result]]]

OF_THE_COMMAND = {"beam", "nbest", "device", "dtype"}
WINDOW = 512  # neighboring utterances among which batches of similar length are made: printing waits for no more


def run(args: argparse.Namespace) -> int:
    """Prints ids and hypotheses, or writes a manifest of them. Raises ColldError."""
    if bool(args.audio) == bool(args.manifest):
        raise ConfigError("name audio files or folders, or give --manifest: one of the two")
    if STANDARD_INPUT in args.audio and (len(args.audio) > 1 or args.out or not args.streaming):
        raise ConfigError("standard input (-) is a stream: give it alone, with --streaming and without --out")
    if args.out:
        check_places(args.out, [*split_paths(args.checkpoint, ":"), *args.audio, args.cmvn], args.manifest)
    refuse_unused(args)
    formats = parse_formats(args.words)
    if formats and not args.out:
        raise ConfigError("--words writes files beside a manifest: give --out")
    recogniser = load_recogniser(args.checkpoint, args.beam, args.nbest, args.device, args.dtype, **task_options(args))
    if formats and recogniser.decoder == "attention":
        raise ConfigError("--words: an attention decoder knows no times; take --decoder ctc where there is a CTC layer")
    console = Console(stderr=True)  # standard output is for hypotheses
    if args.streaming:
        return run_streaming(args, recogniser, console)
    if args.chunk_ms is not None:
        recogniser.limit_context(args.chunk_ms, args.left_context, args.right_ms)
    elif args.left_context != TRAINED or args.right_ms:
        raise ConfigError("--left-context and --right-ms say nothing without --chunk-ms or --streaming")
    work = partial(transcribe, recogniser, args.batch_seconds, cutting(args, recogniser))
    run_utterances(args, recogniser, work, Printer(args.nbest), console)
    return 0


def refuse_unused(args: argparse.Namespace) -> None:
    """ConfigError for options that would have no effect."""
    if not args.streaming:
        given = {"--endpoint": args.endpoint != ENDPOINT, "--streams": args.streams != 1}
        for option in filter(given.get, given):
            raise ConfigError(f"{option}: says nothing without --streaming")
    if args.audio_root and not args.manifest:
        raise ConfigError("--audio-root: says nothing without --manifest; audio files are named as they lie")


def run_streaming(args: argparse.Namespace, recogniser: Recogniser, console: Console) -> int:
    """Streams from files or standard input; ends with what a listener would have waited for."""
    if args.cut_seconds or args.vad:
        option = "--cut-seconds" if args.cut_seconds else "--vad"
        raise ConfigError(f"{option}: a stream needs no cutting, --endpoint ends its utterances")
    live = streaming.streaming_recogniser(args, recogniser)
    if args.audio == [STANDARD_INPUT]:
        streaming.from_standard_input(live, console)
        return 0
    latencies: List[Latency] = []
    printer = None if args.out else streaming.StreamPrinter(sys.stdout, sys.stdout.isatty() and args.streams == 1)
    work = partial(streaming.stream_utterances, live, recogniser, args.streams, latencies, printer)
    run_utterances(args, recogniser, work, lambda utterances, results, bad: None, console)
    if latencies:
        console.say(streaming.summary(latencies))
    return 0


def cutting(args: argparse.Namespace, recogniser: Recogniser) -> Optional[Cutting]:
    """How to cut long recordings; None: not at all. Raises ConfigError."""
    if not args.cut_seconds and not args.vad:
        return None
    detector = VoiceActivity() if args.vad else None
    return Cutting(args.cut_seconds or recogniser.task.cfg.max_seconds, detector)


def run_utterances(
    args: argparse.Namespace, recogniser: Recogniser, work: Work, show: Callable, console: Console
) -> None:
    """All utterances to --out, or shown as they are finished: show(utterances, results, bad)."""
    utterances, unreadable = read_utterances(args, recogniser)
    bad = BadUtterances(len(utterances) + len(unreadable), args.max_bad)
    bad.update(unreadable)
    longest = recogniser.task.cfg.max_seconds
    long = int((utterances.rows.n_samples[utterances.todo] > longest * SAMPLE_RATE).sum())
    if long and not args.streaming and not args.cut_seconds and not args.vad:
        console.say(
            f"{long} of {len(utterances)} utterances are longer than the {longest:g} s up to which the model was"
            f" trained: give --vad or --cut-seconds {longest:g}, or --streaming with a model that can"
        )
    if args.out:
        with only_run(args.out):
            to_manifest(args, utterances, work, bad, console)
    else:
        # A terminal shows hypotheses or a bar, not both; nor may the bar's display take over standard output.
        with progress(Console(quiet=True) if sys.stdout.isatty() else console, "transcribing") as display:
            for results in work(utterances, bad, audio_bar(display, utterances)):
                show(utterances, results, bad)
            show(utterances, {}, bad)  # what has waited for the last ones, which could not be used
    if len(bad) == bad.rows:
        raise AudioError(bad.report("which leaves none"))
    console.left_out(bad)


def task_options(args: argparse.Namespace) -> Dict[str, str]:
    """The task's options that differ from those of the training."""
    options = all_named(args.options, "--options", "NAME=VALUE,NAME=VALUE")
    for name in OF_THE_COMMAND.intersection(options):
        raise ConfigError(f"--options {name}={options[name]}: give --{name} {options[name]}")
    moved = {name: getattr(args, name) for name in ("vocab", "cmvn") if getattr(args, name)}
    return {"decoder": args.decoder, "tgt_lang": args.lang, "src_lang": args.src_lang, **moved, **options}


def read_utterances(args: argparse.Namespace, recogniser: Recogniser) -> Tuple[Utterances, Dict[str, str]]:
    """The utterances that were asked for, and {id: reason} of files that cannot be opened."""
    if args.audio and recogniser.needs_language:
        raise ConfigError("this model writes several languages: say with --lang which")

    def describe(row: Row) -> Row:
        spoken = row.src_lang or args.src_lang
        return row._replace(src_lang=spoken, tgt_lang=spoken if recogniser.transcribes else args.lang or row.tgt_lang)

    if args.audio:
        rows, unreadable = read_files(args.audio)
        return Utterances(rows, rows.ids, np.arange(len(rows)), describe), unreadable
    rows, todo = read_utterances_of_manifests(args.manifest, args.audio_root, recogniser.needs_language)
    if recogniser.needs_language:
        for part in rows.parts:
            recogniser.task.check_languages(part)
    return Utterances(rows, [rows.text("id", row) for row in range(len(rows))], todo, describe), {}


def audio_bar(display: Progress, utterances: Utterances) -> AudioBar:
    return AudioBar(display, len(utterances), utterances.rows.n_samples[utterances.todo].sum() / SAMPLE_RATE)


def transcribe(
    recogniser: Recogniser,
    batch_seconds: float,
    cut: Optional[Cutting],
    utterances: Utterances,
    bad: BadUtterances,
    bar: AudioBar,
) -> Iterator[Dict[str, Result]]:
    """Results by id, batch by batch, and of recordings that are to be cut piece by piece before their own; utterances
    that cannot be used go to `bad`."""
    whole = cut.whole_seconds if cut else np.inf
    for rows in np.split(utterances.todo, range(WINDOW, len(utterances), WINDOW)):
        is_long = utterances.rows.n_samples[rows] > whole * SAMPLE_RATE
        yield from transcribe_utterances(recogniser, batch_seconds, utterances, rows[~is_long], bad, bar)
        for row in rows[is_long].tolist():
            yield from transcribe_recording(recogniser, cut, batch_seconds, utterances, row, bad, bar)


def transcribe_utterances(
    recogniser: Recogniser,
    batch_seconds: float,
    utterances: Utterances,
    rows: np.ndarray,
    bad: BadUtterances,
    bar: AudioBar,
) -> Iterator[Dict[str, Result]]:
    """Of whole utterances, those of similar length together."""
    batches = plan_batches(rows, utterances.rows.n_samples, batch_seconds * SAMPLE_RATE)
    lengths, longest = recogniser.output_lengths, recogniser.input.max_samples
    for names, waveforms in usable_batches(
        utterances.rows, utterances.ids, batches, lengths, bad, bar.advance, longest
    ):
        languages = utterances.languages(names) if recogniser.needs_language else None
        n_best = recogniser.transcribe(
            [waveform.numpy() for waveform in waveforms], languages, source_languages=utterances.spoken(names)
        )
        yield {name: Result(len(wave), best) for name, wave, best in zip(names, waveforms, n_best)}


class Printer:
    """Prints `id<TAB>text` in the order of the input; with --nbest `id<TAB>score<TAB>text` for each hypothesis. Keeps
    those for which an earlier one is waited for, at most a WINDOW; pieces of recordings not at all."""

    def __init__(self, nbest: int) -> None:
        self.scores = nbest > 1
        self.out = sys.stdout  # which a progress display on a terminal replaces by its own
        self.waiting: Dict[str, Result] = {}
        self.next = 0

    def __call__(self, utterances: Utterances, results: Dict[str, Result], bad: BadUtterances) -> None:
        rows = utterances.row_of_id
        self.waiting.update((name, result) for name, result in results.items() if name in rows)
        while self.next < len(utterances):
            name = utterances.ids[utterances.todo[self.next]]
            if name not in self.waiting and name not in bad.reasons:
                break
            self.next += 1
            for hypothesis in self.waiting.pop(name).hypotheses if name in self.waiting else ():
                score = f"{hypothesis.score:.4f}\t" if self.scores else ""
                print(f"{name}\t{score}{hypothesis.text}", file=self.out, flush=True)


def to_manifest(
    args: argparse.Namespace, utterances: Utterances, work: Work, bad: BadUtterances, console: Console
) -> None:
    """Write --out once every utterance is transcribed; until then results are kept in a journal beside it."""
    refuse_inputs(args.out, "--out", (utterances.rows.audio_path(row) for row in utterances.todo.tolist()))
    journal = Journal(f"{args.out}.partial", settings(args, utterances), utterances.audio_state)
    try:
        left = [row for row in utterances.todo.tolist() if utterances.ids[row] not in journal.results]
        there = len(utterances) - len(left)
        if journal.results:
            parts = f", and {len(journal.results) - there} parts of others" * (len(journal.results) > there)
            console.say(f"{there} of {len(utterances)} utterances are there already{parts}")
        rest = replace(utterances, todo=np.array(left, dtype=np.int64), known=journal.results)
        with progress(console, "transcribing") as display:
            bar = audio_bar(display, rest)
            for results in work(rest, bad, bar):
                journal.add(results)
    except BaseException:
        journal.close()
        raise
    if journal.results:
        rows = [utterances.row(row) for row in utterances.todo.tolist()]
        for path in write_results(args.out, rows, journal.results, args.nbest):
            console.say(bar.summary(path))
        if formats := parse_formats(args.words):
            folder, former = write_words(args.out, formats, timed(rows, journal.results))
            more = f"; {former} of its files are of earlier runs with other utterances" * bool(former)
            console.say(f"words with their times: {folder}{more}")
    journal.remove()


def timed(rows: Sequence[Row], results: Mapping[str, Result]) -> Iterator[Timed]:
    """What there is of the rows, one at a time."""
    for row in rows:
        if row.id in results:
            result = results[row.id]
            yield Timed(row.id, result.samples / SAMPLE_RATE, result.hypotheses[0])


def settings(args: argparse.Namespace, utterances: Utterances) -> Dict[str, str]:
    """What a result depends on: a journal that was begun with other values is refused."""
    options = task_options(args)
    beside = filter(None, (options.get(name) for name in ("hotwords", "ngram_lm")))
    latency = [args.streaming, args.chunk_ms, args.left_context, args.right_ms]
    context = [*latency, args.endpoint, args.cut_seconds, args.vad]
    names = json.dumps([(utterances.ids[row], utterances.rows.audio_path(row)) for row in utterances.todo.tolist()])
    return {
        "checkpoint": digest_of(split_paths(args.checkpoint, ":")),
        "audio": hashlib.sha256(names.encode()).hexdigest(),
        "options": json.dumps([args.beam, args.nbest, args.dtype, args.src_lang, options, digest_of(beside), context]),
    }


def digest_of(paths: Iterable[str]) -> str:
    """sha256 of what files hold."""
    total = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
