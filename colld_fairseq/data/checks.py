"""Checks of a manifest before training: what would fail, or silently spoil, a run.

`text_findings` needs the manifest only and is cheap enough for every start of training; `check_manifest` (of
`colld doctor --manifest`) also opens every audio file. Every finding carries the line of the manifest.
"""

import itertools
import multiprocessing
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Collection, Counter, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from colld_fairseq.data.audio import SAMPLE_RATE, audio_info, read_audio
from colld_fairseq.data.fbank import SHIFT, fbank_length, fbank_samples
from colld_fairseq.data.manifest import Manifest, Row, read_manifest, repeated_rows
from colld_fairseq.data.stored_fbank import read_stored_fbank, stored_shape
from colld_fairseq.data.text import (
    PIECE_BOUNDARY,
    TextCodec,
    load_text_codec,
    read_symbols,
    read_vocabulary_config,
    vocabulary_file,
)
from colld_fairseq.errors import AudioError, ConfigError, ManifestError
from colld_fairseq.worker_signals import leave_signals_to_parent

# kind of finding -> (whether it is an error, what to do about it)
REMEDIES: Dict[str, Tuple[bool, str]] = {
    "missing audio": (True, "correct the path, the root line or the audio root, or remove the rows"),
    "unreadable audio": (True, "copy or encode the audio files again, or remove the rows"),
    "wrong duration": (True, "write the samples at 16 kHz into n_frames, or the frames of stored filterbanks"),
    "empty utterance": (True, "remove the rows whose n_frames is 0"),
    "duplicate id": (True, "give every row an id of its own"),
    "empty text": (False, "fill in tgt_text, or remove the rows from training"),
    "control characters": (False, "remove them from the text; they are usually traces of a wrong encoding"),
    "escaped quotes": (
        False,
        "fairseq's scripts write them so, and train on the backslashes: sed -E 's/\\\\([\"\\\\])/\\1/g' FILE > NEW",
    ),
    "unknown language": (False, "use ISO 639 codes (de, mdw, pt-BR), the same in all manifests"),
    "out of vocabulary": (False, "normalize the text as the vocabulary does, or make the vocabulary again"),
}
# Unicode category Cc (tabs and line ends cannot occur in a field), line separators, replacement character
_CONTROL = r"[\p{Cc}\x{2028}\x{2029}\x{FFFD}]"
_ESCAPED = r"""\\["\\]"""  # as pandas writes quotes and backslashes where nothing is quoted
_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
_TOKENS_SHOWN = 12
_ROWS_PER_TASK = 64  # audio files that a worker opens before it reports back


class Finding(NamedTuple):
    """One problem: its kind (a key of REMEDIES), the manifest's line, the utterance, and what exactly is wrong."""

    kind: str
    line: int
    id: str
    detail: str


@dataclass
class ManifestReport:
    """What `check_manifest` found in one manifest."""

    path: str
    rows: int
    seconds: float
    seconds_by_language: Dict[str, float]  # by "source>target", or the one that is given
    findings: List[Finding] = field(default_factory=list)
    tokens: int = 0  # of the target text, when a dictionary was given
    unknown_tokens: Counter = field(default_factory=Counter)  # those that the dictionary lacks

    @property
    def oov_rate(self) -> float:
        """Share of the target tokens that the dictionary lacks."""
        return sum(self.unknown_tokens.values()) / max(1, self.tokens)

    @property
    def has_errors(self) -> bool:
        return any(REMEDIES[finding.kind][0] for finding in self.findings)

    def by_kind(self) -> Dict[str, List[Finding]]:
        """Findings by kind, errors first, in the order of REMEDIES."""
        grouped: Dict[str, List[Finding]] = {kind: [] for kind in REMEDIES}
        for finding in self.findings:
            grouped[finding.kind].append(finding)
        return {kind: findings for kind, findings in grouped.items() if findings}


def text_findings(
    manifest: Manifest, languages: Optional[Collection[str]] = None, targets: Sequence[str] = ("tgt_text",)
) -> Iterator[Finding]:
    """Empty utterances, empty, control-character or escaped text, unknown languages: vectorized, without opening audio.

    `languages` are the codes that may occur; default: anything shaped like an ISO 639 code of two or three
    letters. `targets` are the columns whose text should not be empty.
    """

    def findings(kind: str, rows: np.ndarray, detail: Callable[[int], str]) -> Iterator[Finding]:
        for row in rows.tolist():
            yield Finding(kind, manifest.line(row), manifest.text("id", row), detail(row))

    yield from findings("empty utterance", np.flatnonzero(manifest.n_samples == 0), lambda row: "n_frames is 0")
    columns = manifest.table.column_names
    for name in targets:
        if name in columns:
            blank = pc.equal(pc.utf8_trim_whitespace(manifest.table.column(name)), "")
            yield from findings("empty text", np.flatnonzero(blank), lambda row: f"{name} is empty")
    for name in ("tgt_text", "src_text"):
        if name in columns:
            for kind, pattern in (("control characters", _CONTROL), ("escaped quotes", _ESCAPED)):
                rows = np.flatnonzero(pc.match_substring_regex(manifest.table.column(name), pattern))
                yield from findings(kind, rows, lambda row: f"{name} {manifest.text(name, row)!r}")
    for name in ("src_lang", "tgt_lang"):
        codes, values = manifest.codes(name)
        unknown = [
            code
            for code, value in enumerate(values)
            if (value not in languages if languages else not _LANGUAGE.fullmatch(value)) and values != [""]
        ]
        rows = np.flatnonzero(np.isin(codes, unknown))
        yield from findings("unknown language", rows, lambda row: f"{name} {manifest.text(name, row)!r}")


def load_warnings(
    manifest: Manifest, languages: Optional[Collection[str]] = None, targets: Sequence[str] = ("tgt_text",)
) -> List[str]:
    """`text_findings` as one line per kind, for the log of a training run."""
    lines: Dict[str, List[int]] = {}
    for finding in text_findings(manifest, languages, targets):
        lines.setdefault(finding.kind, []).append(finding.line)
    return [
        f"{manifest.path}: {len(rows)} row(s) with {kind} (line {', '.join(map(str, rows[:5]))}"
        f"{', ...' if len(rows) > 5 else ''}): {REMEDIES[kind][1]}"
        for kind, rows in lines.items()
    ]


def vocabulary_warnings(
    manifest: Manifest, target: str, codec: TextCodec, known: Collection[str], required: bool, alone: bool = True
) -> List[str]:
    """A line for the log of a training run, where tokens of the column `target` are not in the vocabulary.

    required: ConfigError where the model could write nothing of the whole column. alone: no other manifest is trained
    on, so that an empty column (pseudo-labels of a weak model, say) is one where nothing can be learned.
    """
    targets = manifest.table.column(target).unique().to_pylist() if target in manifest.table.column_names else []
    tokens = Counter(itertools.chain.from_iterable(map(codec.encode, targets)))
    unknown = Counter({token: count for token, count in tokens.items() if token not in known})
    if not unknown and (tokens or not required or not alone):
        return []  # that targets are empty is another warning
    worst = ", ".join(f"{token!r} {count}" for token, count in unknown.most_common(_TOKENS_SHOWN))
    more = f" and {len(unknown) - _TOKENS_SHOWN} others" if len(unknown) > _TOKENS_SHOWN else ""
    remedy = REMEDIES["out of vocabulary"][1]
    if required and unknown == tokens:
        raise ConfigError(
            f"{manifest.path}: no text in {target} that the vocabulary could write"
            f"{f' ({worst}{more})' if tokens else ''}; {remedy if tokens else 'fill in the column'}"
        )
    return [
        f"{manifest.path}: {unknown.total()} of {tokens.total()} tokens of the distinct targets in {target} "
        f"({unknown.total() / tokens.total():.2%}) are out of vocabulary, no hypothesis can match them: "
        f"{worst}{more}; {remedy}"
    ]


def check_target_lengths(manifest: Manifest, encode: Callable[[str], Sequence], longest: int) -> None:
    """ManifestError, naming the line, for a target of more tokens than a decoder has positions for.

    encode: a text -> its tokens, end included; with at most one for each byte of UTF-8, the beginning and the end.
    longest: tokens that fit.
    """
    sizes = pc.binary_length(pc.cast(manifest.table.column("tgt_text"), pa.binary())).to_numpy()
    for row in np.flatnonzero(sizes + 2 > longest).tolist():
        tokens = len(encode(manifest.text("tgt_text", row)))
        if tokens > longest:
            raise ManifestError(
                f"{manifest.where(row)}: tgt_text has {tokens} tokens, the decoder has positions for {longest}; cut the"
                " recording into shorter ones, or leave the row out"
            )


def check_manifest(
    path: str,
    audio_root: Optional[str] = None,
    dictionary: Optional[str] = None,
    workers: int = 1,
    decode: bool = False,
    tolerance: float = 0.1,
    on_progress: Callable[[int, int], None] = lambda done, rows: None,
) -> ManifestReport:
    """All checks of one manifest. Raises ManifestError if its rows cannot even be read.

    Args:
        dictionary: vocabulary to take the out-of-vocabulary rate against, or a fairseq dict.txt; the config.yaml
            beside it (`colld vocab` writes one) says how text is normalized and cut. Without it: characters.
        workers: processes that open audio.
        decode: read every sample (finds NaN and damage inside a file) instead of the headers only.
        tolerance: seconds by which n_frames may differ from the length of the audio.
        on_progress: called with (utterances opened, rows).
    """
    manifest = read_manifest(path, audio_root, check_ids=False)
    seconds = manifest.n_samples / SAMPLE_RATE
    report = ManifestReport(manifest.path, len(manifest), float(seconds.sum()), _by_language(manifest, seconds))
    report.findings.extend(
        Finding("duplicate id", manifest.line(row), manifest.text("id", row), f"as on line {manifest.line(first)}")
        for row, first in repeated_rows(manifest, manifest.table.column("id"))
    )
    report.findings.extend(text_findings(manifest))
    if dictionary and manifest.has_text:
        _count_unknown_tokens(manifest, dictionary, report)
    report.findings.extend(_audio_findings(manifest, workers, decode, tolerance, on_progress))
    return report


def _by_language(manifest: Manifest, seconds: np.ndarray) -> Dict[str, float]:
    source, source_names = manifest.codes("src_lang")
    target, target_names = manifest.codes("tgt_lang")
    totals = np.bincount(source * len(target_names) + target, weights=seconds)
    names = [">".join(filter(None, (s, t))) or "(not given)" for s in source_names for t in target_names]
    return {name: float(total) for name, total in zip(names, totals) if total}


def _count_unknown_tokens(manifest: Manifest, dictionary: str, report: ManifestReport) -> None:
    encode, known = load_tokens(dictionary)
    for row in range(len(manifest)):
        tokens = encode(manifest.text("tgt_text", row))
        unknown = [token for token in tokens if token not in known]
        report.tokens += len(tokens)
        if unknown:
            report.unknown_tokens.update(unknown)
            shown = " ".join(f"{token!r}" for token in dict.fromkeys(unknown))
            report.findings.append(Finding("out of vocabulary", manifest.line(row), manifest.text("id", row), shown))


def load_tokens(dictionary: str) -> Tuple[Callable[[str], List[str]], Collection[str]]:
    """(function text -> tokens, the tokens known) of a vocabulary (folder, or its configuration) or fairseq dict.txt.

    The config.yaml beside a dict.txt names the tokenization. Without one, tokens are characters, and of a sentencepiece
    dictionary the characters of all pieces are known: any other becomes <unk> in every segmentation.
    """
    path = Path(dictionary)
    is_vocabulary = path.is_dir() or vocabulary_file(path) == path
    if is_vocabulary or (path.parent / "config.yaml").exists():
        file = vocabulary_file(path if is_vocabulary else path.parent)
        config = read_vocabulary_config(file)
        symbols = read_symbols(file.parent / (config.get("vocab_filename") or "dict.txt") if is_vocabulary else path)
        return load_text_codec(config, file).encode, set(symbols)
    symbols = set(read_symbols(dictionary))
    if any(symbol.startswith(PIECE_BOUNDARY) for symbol in symbols):
        known = set("".join(symbols)) | {TextCodec("char").boundary}
        return TextCodec("char").encode, known
    return TextCodec("char").encode, symbols


def probe_utterance(row: Row, decode: bool, tolerance: float) -> Optional[Tuple[str, str]]:
    """(kind, detail) of what is wrong with one utterance, or None."""
    try:
        actual, detail = (_probe_fbank if row.kind == "fbank" else _probe_audio)(row, decode)
    except AudioError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        return ("missing audio" if missing else "unreadable audio"), str(error)
    return None if abs(actual - row.n_samples) <= tolerance * SAMPLE_RATE else ("wrong duration", detail)


def _probe_fbank(row: Row, decode: bool) -> Tuple[int, str]:
    """Samples of stored filterbanks, and what to say if there should be others."""
    frames, bins = stored_shape(row.audio)
    if decode:
        read_stored_fbank(row.audio, bins)
    return fbank_samples(frames), f"{row.audio}: {frames} frames, but n_frames is {fbank_length(row.n_samples)}"


def _probe_audio(row: Row, decode: bool) -> Tuple[int, str]:
    """Samples of audio at 16 kHz, and what to say if there should be others."""
    info = audio_info(row.audio)
    actual = len(read_audio(row.audio)) if decode else info.num_samples
    detail = f"{row.audio}: {actual} samples at 16 kHz ({actual / SAMPLE_RATE:.2f} s), but n_frames is {row.n_samples}"
    if abs(row.n_samples - actual / SHIFT) < 5:
        detail += ", which looks like filterbank frames of 10 ms"
    elif abs(row.n_samples * SAMPLE_RATE / info.sample_rate - actual) < 5:
        detail += f", which looks like samples at the file's own {info.sample_rate} Hz"
    return actual, detail


def _audio_findings(
    manifest: Manifest, workers: int, decode: bool, tolerance: float, on_progress: Callable[[int, int], None]
) -> Iterator[Finding]:
    rows = len(manifest)
    tasks = [range(start, min(start + _ROWS_PER_TASK, rows)) for start in range(0, rows, _ROWS_PER_TASK)]
    settings = (manifest, decode, tolerance)
    if workers <= 1 or len(tasks) == 1:
        for task in tasks:
            yield from _probe_rows(task, settings)
            on_progress(task.stop, rows)
        return
    # fork, where there is one, shares the manifest instead of sending it to every process
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with multiprocessing.get_context(method).Pool(workers, _keep_settings, (settings,)) as pool:
        for task, findings in zip(tasks, pool.imap(_probe_rows, tasks)):
            yield from findings
            on_progress(task.stop, rows)


_worker_settings: Optional[Tuple[Manifest, bool, float]] = None  # of this worker process


def _keep_settings(settings: Tuple[Manifest, bool, float]) -> None:
    global _worker_settings
    leave_signals_to_parent()
    _worker_settings = settings


def _probe_rows(rows: range, settings: Optional[Tuple[Manifest, bool, float]] = None) -> List[Finding]:
    manifest, decode, tolerance = settings or _worker_settings
    findings = []
    for row in map(manifest.row, rows):
        problem = probe_utterance(row, decode, tolerance) if row.n_samples else None
        if problem:
            findings.append(Finding(problem[0], row.line, row.id, problem[1]))
    return findings
