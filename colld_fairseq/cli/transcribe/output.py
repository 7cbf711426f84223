"""What `colld transcribe` writes: a journal of what is finished, then the manifest and the n-best lists."""

import contextlib
import json
import os
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

from colld_fairseq.data.hypotheses import hypotheses_path, write_hypotheses
from colld_fairseq.data.manifest import Row
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.decoding.hypothesis import Hypothesis
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import errors_name, split_paths
from colld_fairseq.json_lines import json_line
from colld_fairseq.outputs import check_output

CONFIDENCE = "mean_log_prob"  # the column that manifests of transcripts have and others do not


@dataclass
class Result:
    """An utterance's length as it was read (samples at 16 kHz) and its n-best list, best first."""

    samples: int
    hypotheses: List[Hypothesis]

    def to_json(self) -> Dict[str, Any]:
        return {"samples": self.samples, "transcripts": [hypothesis.to_json() for hypothesis in self.hypotheses]}


class Kept(Mapping[str, Result]):
    """Results by id, which lie in a file: in memory is where their lines begin."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lines: Dict[str, int] = {}

    def __getitem__(self, name: str) -> Result:
        with open(self.path, "rb") as file:
            file.seek(self.lines[name])
            return result_of(json.loads(file.readline()))

    def __contains__(self, name: object) -> bool:
        return name in self.lines

    def __iter__(self) -> Iterator[str]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)


def result_of(entry: Dict[str, Any]) -> Result:
    """Of a line of a journal. Raises KeyError and TypeError for others."""
    return Result(entry["samples"], [Hypothesis.from_json(fields) for fields in entry["transcripts"]])


class Journal:
    """Results by id, each kept in a file as soon as it is known: a run that is stopped goes on where it was.

    Utterances that could not be used are not in it: they are tried again. The first line of the file says what was
    asked for. Raises ConfigError when a journal was begun for something else. audio: of an id, the state of its audio;
    results of what was there before are left out.
    """

    def __init__(self, path: str, settings: Dict[str, str], audio: Callable[[str], Any] = lambda name: None) -> None:
        self.path, self.audio = path, audio
        self.results = Kept(path)
        begun = os.path.exists(path) and self._read(settings)
        self._file = open(path, "ab")
        if not begun:
            self._append(settings)

    def add(self, results: Dict[str, Result]) -> None:
        """Note finished utterances."""
        for name, result in results.items():
            self.results.lines[name] = self._append({"id": name, "audio": self.audio(name), **result.to_json()})

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written has been told when it was tried
            self._file.close()

    def remove(self) -> None:
        """What it holds is written elsewhere."""
        self.close()
        os.unlink(self.path)

    def _append(self, entry: Dict[str, Any]) -> int:
        """Where its line begins."""
        with errors_name(self.path):
            start = self._file.seek(0, os.SEEK_END)
            self._file.write(json_line(entry))
            self._file.flush()
        return start

    def _read(self, settings: Dict[str, str]) -> bool:
        """Whether the file holds something; where its results are."""
        begun, start = None, 0
        with open(self.path, "rb+") as file:
            truncate_to_lines(file)
            try:
                for line in file:
                    entry = json.loads(line) if line.strip() else None
                    if begun is not None and entry is not None:
                        result_of(entry)
                        if entry["audio"] == self.audio(entry["id"]):
                            self.results.lines[entry["id"]] = start
                    elif entry is not None:
                        self._check(entry, settings)
                        begun = entry
                    start += len(line)
            except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"{self.path}: no journal of this version, or damaged; remove it to start again"
                ) from error
        return begun is not None

    def _check(self, begun: Dict[str, str], settings: Dict[str, str]) -> None:
        differ = [name for name in settings if begun[name] != settings[name]]
        if differ:
            raise ConfigError(
                f"{self.path} was begun with other {', '.join(differ)}: finish that run with what it was begun"
                " with, or remove the file to start again"
            )


def truncate_to_lines(file: BinaryIO) -> None:
    """Drops the line that was being written when a run was killed, the last one without an end."""
    end = 0
    for line in file:
        end += len(line) if line.endswith(b"\n") else 0
    file.truncate(end)
    file.seek(0)


def check_places(out: str, inputs: Sequence[str], manifests: Optional[str]) -> None:
    """ConfigError unless what a run writes for --out can be written and overwrites neither inputs nor another's
    manifest; manifests: `A.tsv,B.tsv`, which are inputs with their n-best lists, too."""
    read = split_paths(manifests) if manifests else []
    for path in (out, hypotheses_path(out), f"{out}.partial"):
        check_output(path, "--out", [*inputs, *read, *map(hypotheses_path, read)])
    if not os.path.exists(out):
        return
    if not os.path.isfile(out):
        raise ConfigError(f"--out {out}: is no file, which the results of a stopped run could be kept beside")
    with open(out, "rb") as file:
        columns = file.readline().rstrip(b"\r\n").split(b"\t")
    if CONFIDENCE.encode() not in columns:
        raise ConfigError(
            f"--out {out}: is there and not written by `colld transcribe`; give another name or remove it"
        )


def write_results(path: str, rows: Sequence[Row], results: Mapping[str, Result], nbest: int) -> List[str]:
    """The files written: the manifest `path` and, of several hypotheses, `hypotheses_path(path)`; lists of an earlier
    manifest of that name are removed. rows: all that is known of the utterances, in order; those without a result are
    left out. One result at a time is asked for."""
    rows = [row for row in rows if row.id in results]
    lists = hypotheses_path(path)
    if nbest > 1:
        write_hypotheses(lists, ((row.id, [h.to_json() for h in results[row.id].hypotheses]) for row in rows))
    else:
        Path(lists).unlink(missing_ok=True)
    mine, of_scores = tee(results[row.id] for row in rows)
    folder = os.path.dirname(os.path.abspath(path))
    written = (
        row._replace(audio=_from(folder, row.audio), n_samples=one.samples, tgt_text=one.hypotheses[0].text)
        for row, one in zip(rows, mine)
    )
    write_manifest(path, written, more={CONFIDENCE: (f"{one.hypotheses[0].mean_log_prob:.4f}" for one in of_scores)})
    return [lists, path] if nbest > 1 else [path]


def _from(folder: str, audio: str) -> str:
    """The path of audio relative to the manifest's folder where it lies below, else from the root."""
    audio = os.path.abspath(audio)
    relative = os.path.relpath(audio, folder)
    return audio if relative.startswith(os.pardir) else relative
