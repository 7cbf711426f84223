"""Manifests: which utterances there are, where their audio lies, what was said (see manifests/README.md).

Two formats, told apart by the first line of the file:

- audio-only: the root folder, then `path<TAB>n_samples` rows (the format of wav2vec 2.0 and HuBERT in fairseq);
  transcripts may stand in a file beside it (see `data.labels`);
- speech-to-text: a header with at least `id audio n_frames tgt_text`, then one row per utterance (fairseq's format).

Rows live in Arrow columns, not in Python objects: about 200 bytes per row instead of a thousand, shared between forked
loader workers without copying. What can be checked without opening audio is checked once, vectorized, at load.
"""

import os
import re
from dataclasses import dataclass
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from colld_fairseq.data.fbank import fbank_samples
from colld_fairseq.data.labels import read_labels
from colld_fairseq.data.stored_fbank import STORED_SUFFIX, is_stored_fbank
from colld_fairseq.errors import ManifestError
from colld_fairseq.files import split_paths

REQUIRED_COLUMNS = ("id", "audio", "n_frames", "tgt_text")
OPTIONAL_COLUMNS = ("speaker", "src_text", "src_lang", "tgt_lang")
CODED_COLUMNS = ("speaker", "src_lang", "tgt_lang")  # few distinct values: stored as dictionary codes
_BLOCK_BYTES = 4 << 20  # parsed at a time; bounds the memory beside the table itself
_SHOWN = 3  # examples quoted in an error
_LOOKED_AT = 10  # members of an archive that are looked at until one is there (it may be truncated)


class Row(NamedTuple):
    """One utterance: `audio` as `read_audio` (or, of kind "fbank", `read_stored_fbank`) takes it (full path),
    `n_samples` counted at 16 kHz."""

    id: str
    audio: str
    n_samples: int
    tgt_text: str = ""
    speaker: str = ""
    src_text: str = ""
    src_lang: str = ""
    tgt_lang: str = ""
    kind: str = "waveform"
    line: int = 0


@dataclass
class Manifest:
    """The rows of one manifest file; made by `read_manifest`."""

    path: str
    audio_root: str
    has_text: bool  # speech-to-text format, or transcripts in a file beside it
    table: pa.Table  # columns id, audio and those of OPTIONAL_COLUMNS and tgt_text that the file has
    n_samples: np.ndarray  # int64 [rows], samples at 16 kHz; of filterbanks, as many as their frames take at least
    stored_fbank: np.ndarray  # bool [rows], whether there are stored filterbanks in place of audio
    blank_lines: Tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.n_samples)

    @property
    def corpus(self) -> str:
        """Name of the corpus: the file name without its extension."""
        return os.path.splitext(os.path.basename(self.path))[0]

    @property
    def ids(self) -> List[str]:
        """Of all rows."""
        return self.table.column("id").to_pylist()

    @property
    def files(self) -> Iterator[str]:
        """Every file that is read: the manifest, then the audio of its rows (also what is in zip archives)."""
        yield self.path
        for index in range(len(self)):
            yield self.audio_path(index)

    def line(self, index: int) -> int:
        """Line of row `index` in the file, counted from 1."""
        line = index + 2
        for blank in self.blank_lines:
            line += blank <= line
        return line

    def where(self, index: int) -> str:
        """`file:line` of a row, for messages."""
        return f"{self.path}:{self.line(index)}"

    def text(self, name: str, index: int) -> str:
        """Value of one column in one row; "" where the file has no such column."""
        if name not in self.table.column_names:
            return ""
        return self.table.column(name)[index].as_py()

    def audio_path(self, index: int) -> str:
        """Full path of the row's audio: `file` or `archive.zip:offset:length`."""
        return os.path.join(self.audio_root, self.text("audio", index))

    def row(self, index: int) -> Row:
        """Row `index` (0-based); IndexError outside the manifest."""
        index = range(len(self))[index]
        columns = {name: self.text(name, index) for name in ("id", "tgt_text", *OPTIONAL_COLUMNS)}
        return Row(
            audio=self.audio_path(index),
            n_samples=int(self.n_samples[index]),
            line=self.line(index),
            kind="fbank" if self.stored_fbank[index] else "waveform",
            **columns,
        )

    def codes(self, name: str) -> Tuple[np.ndarray, List[str]]:
        """speaker, src_lang, tgt_lang or corpus of all rows as (int64 codes [rows], the values)."""
        if name == "corpus":
            return np.zeros(len(self), dtype=np.int64), [self.corpus]
        if name not in CODED_COLUMNS:
            raise ManifestError(f"no coded column {name!r}; there are corpus, {', '.join(CODED_COLUMNS)}")
        if name not in self.table.column_names:
            return np.zeros(len(self), dtype=np.int64), [""]
        column = self.table.column(name)
        codes = [chunk.indices.to_numpy(zero_copy_only=False) for chunk in column.chunks]
        return np.concatenate(codes).astype(np.int64), column.chunk(0).dictionary.to_pylist()


class JoinedManifest:
    """Several manifests seen as one, in order; the same reading interface as `Manifest`."""

    def __init__(self, parts: Sequence[Manifest]):
        self.parts = list(parts)
        self.path = ",".join(part.path for part in self.parts)
        self.has_text = all(part.has_text for part in self.parts)
        self.n_samples = np.concatenate([part.n_samples for part in self.parts])
        self.stored_fbank = np.concatenate([part.stored_fbank for part in self.parts])
        self._ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def ids(self) -> List[str]:
        return [name for part in self.parts for name in part.ids]

    @property
    def files(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.files

    def locate(self, index: int) -> Tuple[Manifest, int]:
        """The manifest that holds row `index` and the index of the row there."""
        index = range(len(self))[index]
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part], index - int(self._ends[part]) + len(self.parts[part])

    def line(self, index: int) -> int:
        part, row = self.locate(index)
        return part.line(row)

    def where(self, index: int) -> str:
        part, row = self.locate(index)
        return part.where(row)

    def text(self, name: str, index: int) -> str:
        part, row = self.locate(index)
        return part.text(name, row)

    def audio_path(self, index: int) -> str:
        part, row = self.locate(index)
        return part.audio_path(row)

    def row(self, index: int) -> Row:
        part, row = self.locate(index)
        return part.row(row)

    def codes(self, name: str) -> Tuple[np.ndarray, List[str]]:
        values: Dict[str, int] = {}
        codes = []
        for part in self.parts:
            part_codes, part_values = part.codes(name)
            codes.append(np.array([values.setdefault(v, len(values)) for v in part_values], dtype=np.int64)[part_codes])
        return np.concatenate(codes), list(values)


AnyManifest = Union[Manifest, JoinedManifest]


def read_manifest(path: str, audio_root: Optional[str] = None, check_ids: bool = True) -> Manifest:
    """Read and check one manifest of either format.

    `audio_root` is the folder that audio paths are relative to. Default: the root line of an audio-only manifest
    (relative to the manifest's folder), or the folder of a speech-to-text manifest. `check_ids=False` lets duplicate
    ids pass, for a checker that lists them all.

    Raises ManifestError naming file and line: unreadable file, no rows, missing columns, wrong number of
    fields, invalid UTF-8, `n_frames` that is not a whole number >= 0, empty or duplicate ids.
    """
    path = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(path))
    header = _first_line(path)
    if "\t" in header and not header.startswith("#"):
        columns, audio_column, length_column = header.split("\t"), "audio", "n_frames"
        _check_header(path, columns)
        root = folder
    else:
        columns, audio_column, length_column = ["id", "n_samples"], "id", "n_samples"
        _check_root(path, header)
        root = os.path.join(folder, os.path.expanduser(header.strip()))
    table = _read_rows(path, columns)
    table, blank_lines = _drop_blank_lines(path, table, length_column)
    if len(table) == 0:
        raise ManifestError(f"{path}: no rows below the first line; write one line per utterance")
    has_text = length_column == "n_frames"
    root = os.path.expanduser(audio_root) if audio_root else root
    manifest = Manifest(path, os.path.abspath(root), has_text, table, np.zeros(0), np.zeros(0), blank_lines)
    for name in dict.fromkeys(("id", audio_column)):
        empty = pc.index(table.column(name), "").as_py()
        if empty >= 0:
            raise ManifestError(
                f"{path}:{manifest.line(empty)}: the field {name!r} is empty; fill it in or remove the row"
            )
    lengths = _whole_numbers(manifest, length_column)
    manifest.table = table.drop_columns([length_column])
    if not has_text:  # the path is the id: one column serves both
        manifest.table = manifest.table.append_column("audio", table.column("id"))
        labels = read_labels(path, len(table))
        if labels is not None:
            manifest.table, manifest.has_text = manifest.table.append_column("tgt_text", labels), True
    manifest.stored_fbank = _stored_fbank(manifest)
    manifest.n_samples = np.where(manifest.stored_fbank, fbank_samples(lengths), lengths)
    if check_ids:
        _check_unique_ids(manifest)
    return manifest


def join_manifests(manifests: Sequence[Manifest]) -> JoinedManifest:
    """Join manifests in the given order.

    An id may occur in several files (one utterance with two translations), but always with the same audio: feature
    caches and reports go by id. ManifestError names both places otherwise.
    """
    if not manifests:
        raise ManifestError("no manifest given; name at least one")
    joined = JoinedManifest(manifests)
    ids = pa.chunked_array([chunk for part in joined.parts for chunk in part.table.column("id").chunks])
    for row, first in repeated_rows(joined, ids):
        if joined.audio_path(row) != joined.audio_path(first):
            raise ManifestError(
                f"{joined.where(row)}: id {joined.text('id', row)!r} names other audio than at "
                f"{joined.where(first)}; make ids unique, for example with the corpus name in front"
            )
    return joined


def read_manifests(paths: str, audio_root: Optional[str] = None) -> JoinedManifest:
    """The manifests `A.tsv,B.tsv`, joined. Raises ManifestError as `read_manifest` and `join_manifests`."""
    return join_manifests([read_manifest(path, audio_root) for path in split_paths(paths)])


def require_waveforms(manifest: AnyManifest, who: str, remedy: str = "") -> None:
    """ManifestError that names the first row with stored filterbanks, if there is one; `who` needs waveforms."""
    if manifest.stored_fbank.any():
        row = int(manifest.stored_fbank.argmax())
        raise ManifestError(
            f"{manifest.where(row)}: {manifest.text('audio', row)!r} holds filterbanks, but {who} needs the waveform: "
            f"name the audio itself in a manifest (with fairseq's scripts: --use-audio-input){remedy}"
        )


def _first_line(path: str) -> str:
    try:
        with open(path, "rb") as handle:
            raw = handle.readline()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}); check the manifest's path") from error
    try:
        line = raw.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}:1: not UTF-8 ({error.reason}); convert the file to UTF-8") from error
    if not line:
        raise ManifestError(f"{path}:1: the first line is empty; it must be the audio root folder or the column names")
    if not raw.endswith(b"\n"):
        raise ManifestError(f"{path}: no rows below the first line; write one line per utterance")
    return line


def _check_root(path: str, line: str) -> None:
    """ManifestError if a first line without tabs is clearly meant as something else than a folder."""
    columns = set(re.split(r"[\s,;|\"']+", line)) & {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS, "path", "n_samples"}
    if line.startswith("#"):
        what = "is a comment, which a manifest cannot have: remove it"
    elif line.startswith(("{", "[", "<")):
        what = "is JSON or XML; a manifest is tab-separated text: write the first line as below"
    elif len(columns) > 1:
        what = "has column names that no tab separates: write the file tab-separated, without quotes"
    else:
        return
    if not os.path.isdir(os.path.join(os.path.dirname(path), line)):
        raise ManifestError(
            f"{path}:1: the first line {what} (it must be the audio root folder, or tab-separated column names with at "
            f"least {' '.join(REQUIRED_COLUMNS)})"
        )


def _check_header(path: str, columns: Sequence[str]) -> None:
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if missing:
        raise ManifestError(
            f"{path}:1: the header lacks the column(s) {', '.join(missing)} (it has: {', '.join(columns)}); "
            "a speech-to-text manifest starts with column names, an audio-only one with its root folder"
        )
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise ManifestError(f"{path}:1: the header names the column(s) {', '.join(twice)} twice; keep one of each")


def _read_rows(path: str, columns: Sequence[str]) -> pa.Table:
    """All rows below line 1 as strings, known columns only; blank lines become rows of empty fields."""
    malformed: List[Tuple[int, int, str]] = []
    count = 0

    def on_malformed(row) -> str:
        nonlocal count
        count += 1
        if len(malformed) < _SHOWN:
            malformed.append((row.number, row.actual_columns, row.text))
        return "skip"

    known = [name for name in columns if name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS, "n_samples")]
    coded = pa.dictionary(pa.int32(), pa.string())
    try:
        table = pa_csv.read_csv(
            path,
            memory_pool=_memory_pool(),
            # one thread: line numbers of bad rows are only known when blocks are parsed in order
            read_options=pa_csv.ReadOptions(
                use_threads=False, block_size=_BLOCK_BYTES, column_names=list(columns), skip_rows=1
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter="\t", quote_char=False, ignore_empty_lines=False, invalid_row_handler=on_malformed
            ),
            convert_options=pa_csv.ConvertOptions(
                include_columns=known,
                column_types={name: coded if name in CODED_COLUMNS else pa.string() for name in known},
            ),
        )
    except pa.ArrowInvalid as error:
        raise ManifestError(_explain(path, error)) from error
    if count:
        examples = ", ".join(f"line {line}: {fields} field(s)" for line, fields, _ in malformed)
        raise ManifestError(
            f"{path}:{malformed[0][0]}: {count} row(s) do not have {len(columns)} tab-separated fields "
            f"({examples}); {_why_malformed(malformed[0][2], malformed[0][1])}"
        )
    return table.unify_dictionaries()


def _why_malformed(text: str, fields: int) -> str:
    if text.startswith("#"):
        return "a manifest cannot have comments: remove these lines"
    if fields == 1 and re.search(r"[,;|]\s*\"?\d+", text):
        return "something else than tabs separates its fields: write the file tab-separated, without quotes"
    return "a tab or line break inside a field splits it, fields are never quoted: replace it with a space"


def _memory_pool() -> pa.MemoryPool:
    """jemalloc where pyarrow has it: measured 25 MB less at the peak of a million rows than its default."""
    return pa.jemalloc_memory_pool() if "jemalloc" in pa.supported_memory_backends() else pa.default_memory_pool()


def _explain(path: str, error: Exception) -> str:
    """Arrow does not say where in the file invalid UTF-8 is; look for it once something went wrong."""
    with open(path, "rb") as handle:
        for line_number, line in enumerate(handle, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as bad:
                return f"{path}:{line_number}: byte {bad.start + 1} is not UTF-8; convert the file to UTF-8"
    return f"{path}: cannot be parsed as a tab-separated file ({error})"


def _drop_blank_lines(path: str, table: pa.Table, length_column: str) -> Tuple[pa.Table, Tuple[int, ...]]:
    """Remove the rows that blank lines became, and say on which lines they were."""
    if pc.index(table.column(length_column), "").as_py() < 0:
        return table, ()
    with open(path, "rb") as handle:
        blank = [at for at, line in enumerate(handle, start=1) if at > 1 and not line.strip(b"\r\n")]
    keep = np.ones(len(table), dtype=bool)
    keep[np.array(blank, dtype=np.int64) - 2] = False
    return table.filter(pa.array(keep)), tuple(blank)


def _whole_numbers(manifest: Manifest, name: str) -> np.ndarray:
    column = manifest.table.column(name)
    valid = pc.match_substring_regex(column, r"^[0-9]{1,15}$")
    first = pc.index(valid, False).as_py()
    if first >= 0:
        raise ManifestError(
            f"{manifest.where(first)}: {name} is {column[first].as_py()!r}; "
            "it must be a whole number of samples at 16 kHz (of stored filterbanks: frames), 0 or more"
        )
    return np.concatenate([pc.cast(chunk, pa.int64()).to_numpy() for chunk in column.chunks])


def _stored_fbank(manifest: Manifest) -> np.ndarray:
    """bool [rows]: which rows name stored filterbanks. All members of an archive are taken for of one kind."""
    stored, start = np.zeros(len(manifest.table), dtype=bool), 0
    archives: Dict[str, bool] = {}
    for chunk in manifest.table.column("audio").chunks:
        stored_here = np.array(pc.ends_with(chunk, STORED_SUFFIX), dtype=bool)
        members = np.flatnonzero(pc.match_substring_regex(chunk, r"(?i)\.zip:\d+:\d+$"))
        names = pc.replace_substring_regex(chunk.take(members), r":\d+:\d+$", "").dictionary_encode()
        codes = names.indices.to_numpy()
        values = names.dictionary.to_pylist()
        for code, name in enumerate(values):
            if name not in archives:
                rows = start + members[np.flatnonzero(codes == code)[:_LOOKED_AT]]
                looks = (is_stored_fbank(manifest.audio_path(row)) for row in rows.tolist())
                archives[name] = next((look for look in looks if look is not None), False)
        stored_here[members] = np.array([archives[name] for name in values], dtype=bool)[codes]
        stored[start : start + len(chunk)] = stored_here
        start += len(chunk)
    return stored


def _all_distinct(ids: pa.ChunkedArray) -> bool:
    """True if no two ids are equal. Compares 64-bit hashes, which takes 8 bytes per id instead of a hash table."""
    hashes = np.sort(np.concatenate([np.fromiter(map(hash, chunk.to_pylist()), np.int64) for chunk in ids.chunks]))
    return bool((hashes[1:] != hashes[:-1]).all()) or pc.count_distinct(ids).as_py() == len(ids)


def _repeated(ids: pa.ChunkedArray) -> pa.Array:
    """The ids that occur more than once, each named once."""
    counts = pc.value_counts(ids)
    return counts.field("values").filter(pc.greater(counts.field("counts"), 1))


def repeated_rows(manifest: AnyManifest, ids: pa.ChunkedArray) -> Iterator[Tuple[int, int]]:
    """(row, first row with the same id) of every row whose id occurred before; `ids` are the manifest's."""
    if _all_distinct(ids):
        return
    first: Dict[str, int] = {}
    for index in np.flatnonzero(pc.is_in(ids, value_set=_repeated(ids))).tolist():
        earlier = first.setdefault(manifest.text("id", index), index)
        if earlier != index:
            yield index, earlier


def _check_unique_ids(manifest: Manifest) -> None:
    repeated = list(repeated_rows(manifest, manifest.table.column("id")))
    if repeated:
        row, first = repeated[0]
        raise ManifestError(
            f"{manifest.where(row)}: id {manifest.text('id', row)!r} is also on line {manifest.line(first)}; "
            f"{len(repeated)} row(s) repeat an earlier id: give every row an id of its own"
        )
