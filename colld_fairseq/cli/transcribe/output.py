"""What `colld transcribe` writes: a journal of what is finished, then the manifest and the n-best lists."""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence

from colld_fairseq.data.hypotheses import hypotheses_path, write_hypotheses
from colld_fairseq.data.manifest import Row
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.decoding.hypothesis import Hypothesis
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import errors_name, split_paths
from colld_fairseq.json_lines import json_line, read_json_lines
from colld_fairseq.outputs import check_output

CONFIDENCE = "mean_log_prob"  # the column that manifests of transcripts have and others do not


@dataclass
class Result:
    """An utterance's length as it was read (samples at 16 kHz) and its n-best list, best first."""

    samples: int
    hypotheses: List[Hypothesis]

    def to_json(self) -> Dict[str, Any]:
        return {"samples": self.samples, "transcripts": [hypothesis.to_json() for hypothesis in self.hypotheses]}


class Journal:
    """Results by id, each kept in a file as soon as it is known: a run that is stopped goes on where it was.

    Utterances that could not be used are not in it: they are tried again. The first line of the file says what was
    asked for. Raises ConfigError when a journal was begun for something else.
    """

    def __init__(self, path: str, settings: Dict[str, str]) -> None:
        self.path = path
        self.results: Dict[str, Result] = {}
        begun = os.path.exists(path) and self._read(settings)
        self._file = open(path, "ab")
        if not begun:
            self._append([settings])

    def add(self, results: Dict[str, Result]) -> None:
        """Note finished utterances."""
        self.results.update(results)
        self._append({"id": name, **result.to_json()} for name, result in results.items())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written has been told when it was tried
            self._file.close()

    def remove(self) -> None:
        """What it holds is written elsewhere."""
        self.close()
        os.unlink(self.path)

    def _append(self, entries: Iterable[Dict]) -> None:
        with errors_name(self.path):
            self._file.write(b"".join(map(json_line, entries)))
            self._file.flush()

    def _read(self, settings: Dict[str, str]) -> bool:
        """Whether the file holds something; its results."""
        with open(self.path, "rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)  # the line that was being written when the run was killed
        try:
            begun, *entries = [entry for _, entry in read_json_lines(self.path)] or [None]
            differ = [name for name in settings if begun is not None and begun[name] != settings[name]]
            if differ:
                raise ConfigError(
                    f"{self.path} was begun with other {', '.join(differ)}: finish that run with what it was begun"
                    " with, or remove the file to start again"
                )
            for entry in entries:
                hypotheses = [Hypothesis.from_json(fields) for fields in entry["transcripts"]]
                self.results[entry["id"]] = Result(entry["samples"], hypotheses)
        except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{self.path}: no journal of this version, or damaged; remove it to start again"
            ) from error
        return begun is not None


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


def write_results(path: str, rows: Sequence[Row], results: Dict[str, Result], nbest: int) -> List[str]:
    """The files written: the manifest `path` and, of several hypotheses, `hypotheses_path(path)`; lists of an earlier
    manifest of that name are removed. rows: all that is known of the utterances, in order; those without a result are
    left out."""
    rows = [row for row in rows if row.id in results]
    folder = os.path.dirname(os.path.abspath(path))
    best = [results[row.id].hypotheses[0] for row in rows]
    written = (
        row._replace(audio=_from(folder, row.audio), n_samples=results[row.id].samples, tgt_text=hypothesis.text)
        for row, hypothesis in zip(rows, best)
    )
    lists = hypotheses_path(path)
    if nbest > 1:
        write_hypotheses(lists, ((row.id, [h.to_json() for h in results[row.id].hypotheses]) for row in rows))
    else:
        Path(lists).unlink(missing_ok=True)
    write_manifest(path, written, more={CONFIDENCE: [f"{one.mean_log_prob:.4f}" for one in best]})
    return [lists, path] if nbest > 1 else [path]


def _from(folder: str, audio: str) -> str:
    """The path of audio relative to the manifest's folder where it lies below, else from the root."""
    audio = os.path.abspath(audio)
    relative = os.path.relpath(audio, folder)
    return audio if relative.startswith(os.pardir) else relative
