"""A corpus becomes manifests: planned, its audio opened in parallel, everything written at once at the end.

Files of a preparation into OUT (with a name, `_NAME` follows the split and the others' names):

    SPLIT.tsv                  recognition and, into other languages, translation
    SPLIT_asr.tsv, _st.tsv     the two apart, where there are translations
    audio/00000.zip            the audio, where it is packed
    left_out.tsv               what was left out, and why
    prepared.json              what it was made of, and totals; written last
    prepared.partial           what is known of a preparation that is under way

Manifests of an earlier preparation of the same corpus are removed before the first new one is written, so that a run
that is killed leaves none of the former ones beside its own. What it may leave stands in prepared.json before it is
there, with `unfinished`: the next run, whatever its options, removes it.
"""

import contextlib
import glob
import json
import multiprocessing
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Container, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.corpora.arrow_audio import ArrowAudio
from colld_fairseq.corpora.journal import Journal
from colld_fairseq.corpora.measuring import PART, Measured, Result, Source, measure, sources
from colld_fairseq.corpora.plan import Plan
from colld_fairseq.corpora.record import LEFT_OUT, RECORD, read_record
from colld_fairseq.corpora.utterance import KINDS, LeftOut, Utterance
from colld_fairseq.data.manifest import Row
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.errors import AudioError, ConfigError
from colld_fairseq.files import write_atomically, written_atomically
from colld_fairseq.outputs import check_folder, only_run
from colld_fairseq.worker_signals import leave_signals_to_parent

SHOWN = 10  # examples in messages
Task = Tuple[int, Sequence[Source], Optional[Path]]  # a part, its audio, the archive to pack it into


@dataclass
class Totals:
    """Of one manifest: utterances, seconds, distinct speakers, and seconds by language (`de`, `de>en`)."""

    utterances: int = 0
    seconds: float = 0.0
    speakers: int = 0
    languages: Dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Totals":
        languages: Counter = Counter()
        for row in rows:
            pair = dict.fromkeys(filter(None, [row.src_lang, row.tgt_lang]))
            languages[">".join(pair) or "unknown"] += row.n_samples
        seconds = {name: samples / SAMPLE_RATE for name, samples in languages.items()}
        speakers = len({row.speaker for row in rows} - {""})
        return cls(len(rows), sum(languages.values()) / SAMPLE_RATE, speakers, seconds)


@dataclass
class Prepared:
    """What was written: totals by manifest, and what was left out, with the file that lists it.

    replaced: those manifests that had other utterances in an earlier preparation of the same corpus. removed: manifests
    of that one which are not among these.
    """

    manifests: Dict[str, Totals]
    left_out: List[LeftOut]
    left_out_path: Path
    replaced: List[str]
    removed: List[str]

    def kinds(self) -> Dict[str, int]:
        """How many were left out, by kind."""
        return dict(Counter(one.kind for one in self.left_out))


@dataclass
class Preparation:
    """One corpus on its way into a folder.

    layout, folder: where it comes from. name: added to the names of its files, for several corpora in one folder.
    pack: audio into zip archives. workers: processes. max_bad: share of utterances that may be at fault, one at least.
    made_by: the options that decide what a split's manifest holds. Where an earlier preparation had the same, its
    manifests of other splits stay.
    """

    layout: str
    folder: Path
    out: Path
    name: str = ""
    pack: bool = False
    workers: int = 1
    max_bad: float = 0.001
    made_by: Dict[str, Any] = field(default_factory=dict)

    def run(self, plan: Plan, on_progress: Callable[[int, int, float], None] = lambda *_: None) -> Prepared:
        """Writes everything. on_progress: called with utterances opened, all of them, and seconds of audio so far.

        Raises AudioError where too much is at fault, ConfigError for files that would be overwritten; OSError.
        """
        check_folder(self.out, "--out")
        pack = self.pack or any(isinstance(one.audio, ArrowAudio) for one in plan.utterances)
        splits = list(dict.fromkeys(one.split for one in plan.utterances))
        self._check_names(plan, splits)
        parts = [sources(plan.utterances[start : start + PART]) for start in range(0, len(plan.utterances), PART)]
        # Processes are started before the lock is taken, so that those of a killed run do not hold it.
        with _measuring(self.workers, len(parts)) as run_parts, only_run(self._path("prepared.partial")):
            journal = Journal(
                self._path("prepared.partial"),
                f"{plan.digest()} {'packed' if pack else 'in place'}",
                parts,
                lambda part: not pack or self._archive(part).is_file(),
            )
            with contextlib.closing(journal):
                earlier = self._earlier()
                if pack:
                    if not journal.begun:  # its manifests name archives that are about to be replaced
                        self._withdraw(earlier)
                    self._clear_archives(len(parts))
                self._measure(plan, parts, pack, journal, run_parts, on_progress)
                results = [result for part in range(len(parts)) for result in journal.results[part]]
                prepared = self._write(plan, results, splits, pack, earlier)
            journal.path.unlink()
        return prepared

    def _measure(
        self,
        plan: Plan,
        parts: Sequence[Sequence[Source]],
        pack: bool,
        journal: Journal,
        run_parts: Callable[[Iterable[Task]], Iterable[Tuple[int, List[Result]]]],
        on_progress: Callable[[int, int, float], None],
    ) -> None:
        """Opens the audio of all parts that the journal does not have yet."""
        bad = Faults(plan, self.max_bad)
        opened, seconds = 0, 0.0

        def note(part: int, results: Sequence[Result]) -> None:
            nonlocal opened, seconds
            opened += len(results)
            seconds += sum(one.samples for one in results if isinstance(one, Measured)) / SAMPLE_RATE
            on_progress(opened, len(plan.utterances), seconds)
            bad.add(results)

        for part, results in journal.results.items():
            note(part, results)
        todo = [part for part in range(len(parts)) if part not in journal.results]
        tasks = ((part, parts[part], self._archive(part) if pack else None) for part in todo)
        for part, results in run_parts(tasks):
            journal.add(part, results)
            note(part, results)

    def _write(
        self, plan: Plan, results: Sequence[Result], splits: Sequence[str], pack: bool, earlier: Dict[str, Any]
    ) -> Prepared:
        left_out = plan.left_out + [one for one in results if isinstance(one, LeftOut)]
        manifests = self._manifests(plan, results, splits, pack)
        if not manifests:
            first = left_out[0]
            raise AudioError(f"{self.folder}: nothing can be used; the first: {first.id}: {first.kind}: {first.reason}")
        totals = {name: Totals.of(rows) for name, rows in manifests.items()}
        records = {name: asdict(total) for name, total in totals.items()}
        alike = not pack and self._recorded().get("made_by") == self.made_by
        kept = {name: total for name, total in earlier.items() if alike and name not in records}
        self._withdraw(earlier, records, kept)
        root = None if plan.has_text else ("." if pack else os.path.abspath(self.folder))
        for name, rows in manifests.items():
            write_manifest(self.out / name, rows, root)
        prepared = Prepared(
            manifests=totals,
            left_out=left_out,
            left_out_path=self._path(f"{LEFT_OUT}.tsv"),
            replaced=[name for name, record in records.items() if earlier.get(name, record) != record],
            removed=[name for name in earlier if name not in {**records, **kept}],
        )
        _write_left_out(prepared.left_out_path, left_out)
        self._record({"made_by": self.made_by, "manifests": {**kept, **records}, "left_out": prepared.kinds()})
        return prepared

    def _manifests(
        self, plan: Plan, results: Sequence[Result], splits: Sequence[str], pack: bool
    ) -> Dict[str, List[Row]]:
        """{name: rows} of all manifests that have any."""
        manifests: Dict[str, List[Row]] = {}
        for split in splits:
            usable = [
                (utterance, result)
                for utterance, result in zip(plan.utterances, results)
                if utterance.split == split and isinstance(result, Measured)
            ]
            for suffix, rows in self._rows(usable, plan.has_text, pack):
                if rows:
                    manifests[f"{self._stem(split)}{suffix}.tsv"] = rows
        return manifests

    def _rows(
        self, usable: Sequence[Tuple[Utterance, Measured]], has_text: bool, pack: bool
    ) -> Iterator[Tuple[str, List[Row]]]:
        """(what follows the split in a manifest's name, rows) of all manifests of one split."""
        if not has_text:
            root = self.out if pack else self.folder
            rows = [_row(one, result)._replace(audio=_below(root, result.audio)) for one, result in usable]
            yield "", rows
            return
        transcribed, translated = [], []
        for one, result in usable:
            row = _row(one, result)._replace(audio=_below(self.out, result.audio))
            if one.text:
                transcribed.append(row._replace(tgt_text=one.text, tgt_lang=one.language))
            for target, text in one.translations.items():
                translated.append(row._replace(id=f"{one.id}-{target}", tgt_text=text, tgt_lang=target))
        yield "", transcribed + translated
        if translated:
            yield "_asr", transcribed
            yield "_st", translated

    def _check_names(self, plan: Plan, splits: Sequence[str]) -> None:
        """ConfigError where a file of another origin has the name of one that is to be written."""
        suffixes = ("", "_asr", "_st") if any(one.translations for one in plan.utterances) else ("",)
        paths = [self.out / f"{self._stem(split)}{suffix}.tsv" for split in splits for suffix in suffixes]
        paths.append(self._path(f"{LEFT_OUT}.tsv"))
        twice = next((path for index, path in enumerate(paths) if path in paths[:index]), None)
        if twice is not None:
            raise ConfigError(
                f"{self.folder}: its splits {', '.join(splits)} would write {twice.name} twice, one over the other; "
                "rename one"
            )
        there = next((path for path in paths if path.exists()), None)
        if there and not self._is_mine():
            raise ConfigError(
                f"--out {self.out}: {there.name} is there and not made from {self.folder}; give another folder, or "
                "--name NAME to add to the files' names"
            )

    def _is_mine(self) -> bool:
        """Whether the last preparation under this name was of the same corpus."""
        return self._origin().items() <= self._recorded().items()

    def _recorded(self) -> Dict[str, Any]:
        return read_record(self._path(f"{RECORD}.json"))

    def _record(self, content: Dict[str, Any]) -> None:
        record = {**self._origin(), **content}
        write_atomically(self._path(f"{RECORD}.json"), json.dumps(record, ensure_ascii=False, indent=1).encode())

    def _earlier(self) -> Dict[str, Any]:
        """{manifest: its totals} of an earlier preparation of the same corpus, finished or not."""
        manifests = self._recorded().get("manifests") if self._is_mine() else None
        if not isinstance(manifests, dict):
            return {}
        return {name: total for name, total in manifests.items() if re.fullmatch(r"[^/\0]+\.tsv", name)}

    def _withdraw(
        self, earlier: Dict[str, Any], coming: Optional[Dict[str, Any]] = None, kept: Container[str] = ()
    ) -> None:
        """Removes the manifests of an earlier preparation but for those to keep, and what a killed one left of them or
        of those to come. The record goes on naming them all, for the next run if this one is killed."""
        named = {**(coming or {}), **earlier}
        if named:
            self._record({"manifests": named, "unfinished": True})
        for name in earlier:
            if name not in kept:
                (self.out / name).unlink(missing_ok=True)
        for name in named:
            for stale in self.out.glob(f".{glob.escape(name)}.*.tmp"):
                stale.unlink(missing_ok=True)

    def _origin(self) -> Dict[str, str]:
        return {"layout": self.layout, "folder": os.path.abspath(self.folder)}

    def _stem(self, text: str) -> str:
        return f"{text}_{self.name}" if self.name else text

    def _path(self, name: str) -> Path:
        return self.out / f"{self._stem(name.split('.')[0])}.{name.split('.')[1]}"

    def _archive(self, part: int) -> Path:
        return self.out / self._stem("audio") / f"{part:05d}.zip"

    def _clear_archives(self, parts: int) -> None:
        """Removes archives of an earlier plan, and what killed runs have left."""
        folder = self._archive(0).parent
        for path in [*folder.glob("[0-9]*.zip"), *folder.glob(".*.zip.*.tmp")]:
            if path.name.startswith(".") or int(path.stem) >= parts:
                path.unlink(missing_ok=True)


class Faults:
    """Counts what is at fault, and stops once it is too much."""

    def __init__(self, plan: Plan, max_share: float) -> None:
        self.total = len(plan.utterances) + len(plan.left_out)
        self.limit = max(1, int(max_share * self.total))
        self.left_out: List[LeftOut] = []
        self.add(plan.left_out)

    def add(self, results: Sequence[object]) -> None:
        """Raises AudioError, which names the first SHOWN, past the limit."""
        self.left_out += (one for one in results if isinstance(one, LeftOut) and KINDS[one.kind])
        if len(self.left_out) > self.limit:
            raise AudioError(
                "\n".join(
                    [
                        f"{len(self.left_out)} of {self.total} utterances cannot be used, more than the {self.limit} "
                        "that --max-bad allows:",
                        *(f"  {one.id}: {one.kind}: {one.reason}" for one in self.left_out[:SHOWN]),
                    ]
                )
            )


def _row(one: Utterance, result: Measured) -> Row:
    return Row(one.id, result.audio, result.samples, "", one.speaker, one.text, one.language)


def _below(folder: Path, audio: str) -> str:
    """The path of audio relative to a folder that it lies in, so that the two can be moved together; else as it is."""
    root = os.path.join(os.path.abspath(folder), "")
    absolute = os.path.abspath(audio)
    return absolute[len(root) :] if absolute.startswith(root) else absolute


def _write_left_out(path: Path, left_out: Sequence[LeftOut]) -> None:
    with written_atomically(path) as handle:
        for line in [LeftOut("id", "kind", "reason"), *left_out]:
            fields = (" ".join(value.split()) for value in line)
            handle.write("\t".join(fields).encode("utf-8", "backslashreplace") + b"\n")


def _run_part(task: Task) -> Tuple[int, List[Result]]:
    part, utterances, archive = task
    return part, measure(utterances, archive)


@contextlib.contextmanager
def _measuring(workers: int, parts: int) -> Iterator[Callable]:
    """A function that runs parts, in this process or in several, and gives their results as they come."""
    if min(workers, parts) <= 1:
        yield lambda tasks: map(_run_part, tasks)
        return
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with multiprocessing.get_context(method).Pool(min(workers, parts), leave_signals_to_parent) as pool:
        yield lambda tasks: pool.imap_unordered(_run_part, tasks)
