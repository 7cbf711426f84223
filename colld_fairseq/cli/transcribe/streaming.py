"""`colld transcribe --streaming`: hypotheses while the audio arrives, and how long one waits for them."""

import argparse
import math
import shutil
import statistics
import sys
from dataclasses import dataclass
from typing import BinaryIO, Dict, Iterator, List, Optional, Sequence, TextIO

import numpy as np
import torch

from colld_fairseq.cli.terminal import AudioBar, Console
from colld_fairseq.cli.transcribe.inputs import Utterances
from colld_fairseq.cli.transcribe.output import Result
from colld_fairseq.data.audio import SAMPLE_RATE, audio_blocks
from colld_fairseq.data.manifest import require_waveforms
from colld_fairseq.data.media import media_format
from colld_fairseq.data.text_files import STANDARD_INPUT
from colld_fairseq.data.utterances import BadUtterances
from colld_fairseq.decoding.hypothesis import joined
from colld_fairseq.decoding.real_time import PIECE, Latency, cut, listen
from colld_fairseq.decoding.streaming import EndpointRules, StreamingRecogniser, StreamingResult
from colld_fairseq.durations import duration_text
from colld_fairseq.errors import AudioError, ConfigError
from colld_fairseq.numbers import POSITIVE
from colld_fairseq.recogniser import Recogniser

BYTES = 2  # of a sample of raw PCM
HEADER = 16  # bytes by which an audio file is known
HEADERS = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"caff", b".snd", b"NIST_1A", b"fLaC", b"OggS", b"ID3")


def streaming_recogniser(args: argparse.Namespace, recogniser: Recogniser) -> StreamingRecogniser:
    """The recogniser that the options ask for. Raises ConfigError."""
    if args.nbest > 1 and not args.out:
        raise ConfigError("a stream's text is printed as it grows, not its --nbest hypotheses: give --out for these")
    return recogniser.streaming(
        args.chunk_ms or 320, args.left_context, parse_endpoint(args.endpoint), right_ms=args.right_ms
    )


def parse_endpoint(text: str) -> Optional[EndpointRules]:
    """`2.4,1.2,20` or `none`."""
    if text == "none":
        return None
    try:
        silence, after_text, length = [
            math.inf if part.strip() == "inf" else POSITIVE(part) for part in text.split(",")
        ]
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ConfigError(f"--endpoint {text!r}: three numbers of seconds above 0 (inf: never), or none") from error
    return EndpointRules(silence, after_text, length)


class StreamPrinter:
    """`kind<TAB>name<TAB>start<TAB>end<TAB>text` for every partial and final result, times in seconds; in place (one
    stream on a terminal) a partial text, or the end of it that fits the line, is written over the one before."""

    def __init__(self, out: TextIO, in_place: bool) -> None:
        self.out, self.in_place = out, in_place

    def __call__(self, name: str, result: StreamingResult, final: bool) -> None:
        if self.in_place:
            begin = "" if name == STANDARD_INPUT else f"{name}: "
            fits = max(1, shutil.get_terminal_size().columns - len(begin) - 1)
            line = f"\r\033[K{begin}{result.text}\n" if final else f"\r\033[K{begin}{result.text[-fits:]}"
        else:
            kind = "final" if final else "partial"
            line = f"{kind}\t{name}\t{result.start:.2f}\t{result.end:.2f}\t{result.text}\n"
        self.out.write(line)
        self.out.flush()


def stream_utterances(
    streaming: StreamingRecogniser,
    recogniser: Recogniser,
    streams: int,
    latencies: List[Latency],
    printer: Optional[StreamPrinter],
    utterances: Utterances,
    bad: BadUtterances,
    bar: AudioBar,
) -> Iterator[Dict[str, Result]]:
    """Results by id, `streams` utterances at a time, of which some seconds are in memory. `latencies` and `bad` are
    added to; `printer` shows results as they come."""
    require_waveforms(utterances.rows, "this command")
    check_spoken(streaming, recogniser, utterances)
    for batch in np.split(utterances.todo, range(streams, len(utterances), streams)):
        names = [utterances.ids[row] for row in batch.tolist()]
        sources = [Source(utterances.rows.audio_path(row), bar) for row in batch.tolist()]
        finals = Finals(names, printer)
        languages = utterances.languages(names) if recogniser.needs_language else None
        delays = listen(streaming, sources, finals, languages)
        results, failed = {}, {}
        for name, source, delay in zip(names, sources, delays):
            if reason := source.fault(recogniser):
                failed[name] = reason
                continue
            latencies.append(delay)
            n_best = joined([[one, *one.alternatives] for one in finals.of[name]], recogniser.nbest)
            results[name] = Result(source.samples, n_best)
        bad.update(failed)
        yield results
        bar.advance(len(names), 0.0)


def check_spoken(streaming: StreamingRecogniser, recogniser: Recogniser, utterances: Utterances) -> None:
    """ConfigError where an added language is spoken that is not that of the streams, or the other way round."""
    if not recogniser.added_languages:
        return
    for row in utterances.todo.tolist():
        spoken = utterances.row(row).src_lang
        if recogniser.told_language("", spoken) != streaming.language:
            raise ConfigError(
                f"{utterances.ids[row]}: its src_lang is {spoken!r}, but --streaming decodes in one language, now"
                f" {streaming.language or 'none that was added'}: give --src-lang {spoken or 'XX'}, and rows of other"
                " languages in another run"
            )


@dataclass
class Source:
    """A file as a microphone would give it; a stream that cannot be read any further ends there."""

    path: str
    bar: AudioBar
    samples: int = 0  # given so far
    error: str = ""

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            for block in audio_blocks(self.path):
                self.samples += len(block)
                yield from cut(block)
                self.bar.advance(0, len(block) / SAMPLE_RATE)
        except AudioError as error:
            self.error = str(error)

    def fault(self, recogniser: Recogniser) -> str:
        """Why what was recognized is no result; "" if it is."""
        if not self.error and int(recogniser.output_lengths(torch.tensor([self.samples]))) < 1:
            return f"{self.samples} samples are too few for one frame"
        return self.error


class Finals:
    """Keeps the final results of streams by name, and shows all results as they come."""

    def __init__(self, names: Sequence[str], printer: Optional[StreamPrinter]) -> None:
        self.names, self.printer = names, printer
        self.of: Dict[str, List[StreamingResult]] = {name: [] for name in names}

    def __call__(self, index: int, result: StreamingResult, final: bool) -> None:
        if final:
            self.of[self.names[index]].append(result)
        if self.printer is not None:
            self.printer(self.names[index], result, final)


def from_standard_input(streaming: StreamingRecogniser, console: Console) -> None:
    """Print what is recognized on standard input, until it ends or the user interrupts it."""
    shown = Finals([STANDARD_INPUT], StreamPrinter(sys.stdout, sys.stdout.isatty()))
    latencies = listen(streaming, [raw_pcm(sys.stdin.buffer)], shown)
    if not latencies[0].audio:
        raise AudioError("nothing came on standard input; it takes raw PCM: 16 kHz, mono, 16 bits, little-endian")
    console.say(summary(latencies))


def raw_pcm(file: BinaryIO) -> Iterator[np.ndarray]:
    """Pieces int16 [n] of what arrives, as soon as it does; half a sample at the very end is dropped.

    Raises AudioError where it begins as an audio file does.
    """
    rest = begin = b""
    try:
        while read := file.read1(BYTES * PIECE):
            if len(begin) < HEADER:
                begin = (begin + read)[:HEADER]
                check_raw(begin)
            read = rest + read
            end = len(read) // BYTES * BYTES
            rest = read[end:]
            yield np.frombuffer(read[:end], dtype="<i2").astype(np.int16, copy=False)
    except KeyboardInterrupt:  # the end of a recording, not of the program
        return


def check_raw(begin: bytes) -> None:
    """AudioError where these first bytes are those of an audio file, and not of samples."""
    if begin.startswith(HEADERS) or media_format(begin) not in (None, "AAC"):  # its two bytes may be a sample's
        raise AudioError(
            "standard input: is an audio file, and raw samples are read there (16 kHz, 16 bits, mono): name the file in"
            " place of -, or decode it (ffmpeg -i FILE -f s16le -ar 16000 -ac 1 - | ...)"
        )


def summary(latencies: Sequence[Latency]) -> str:
    """Real-time factor, and what a listener waits for, as if the audio had been live."""
    audio, work = sum(one.audio for one in latencies), sum(one.work for one in latencies)
    delays = sorted(delay for one in latencies for delay in one.delays)
    firsts = [one.first for one in latencies if one.first is not None]
    count = f"{len(latencies)} stream{'s' * (len(latencies) != 1)}"
    parts = [f"{count}, {duration_text(audio)}", f"real-time factor {work / max(audio, 1e-9):.4f}"]
    if delays:
        late = delays[math.ceil(0.9 * len(delays)) - 1]
        parts.append(f"emission delay {statistics.mean(delays):.2f} s (90 % within {late:.2f} s)")
        parts.append(f"first text {statistics.mean(firsts):.2f} s after the beginning")
    parts.append(f"last result {statistics.mean(one.final for one in latencies):.2f} s after the end")
    return "; ".join(parts)
