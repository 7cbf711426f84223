"""What `colld transcribe` writes: a journal of what is finished, then the manifest and the n-best lists."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, Iterable, List, Sequence

from colld_fairseq.data.hypotheses import Transcript, hypotheses_path, write_hypotheses
from colld_fairseq.data.manifest import Row
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.errors import ConfigError


@dataclass
class Result:
    """A clip's length as it was read (samples at 16 kHz) and its n-best list, best first."""

    samples: int
    transcripts: List[Transcript]


class Journal:
    """Results by id, each kept in a file as soon as it is known: a run that is stopped goes on where it was.

    Clips that could not be used are not in it: they are tried again. The first line of the file says what was asked
    for. Raises ConfigError when a journal was begun for something else.
    """

    def __init__(self, path: str, settings: Dict[str, str]) -> None:
        self.path = path
        self.results: Dict[str, Result] = {}
        if os.path.exists(path):
            self._read(settings)
            self._file = open(path, "a", encoding="utf-8")
        else:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            self._file = open(path, "w", encoding="utf-8")
            self._append([settings])

    def add(self, results: Dict[str, Result]) -> None:
        """Note finished clips."""
        self.results.update(results)
        self._append({"id": name, **asdict(result)} for name, result in results.items())

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """What it holds is written elsewhere."""
        self.close()
        os.unlink(self.path)

    def _append(self, entries: Iterable[Dict]) -> None:
        for entry in entries:
            self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._file.flush()

    def _read(self, settings: Dict[str, str]) -> None:
        with open(self.path, "rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            file.truncate(whole)  # the line that was being written when the run was killed
        lines = content[:whole].decode().splitlines()
        begun = json.loads(lines[0]) if lines else None
        if begun != settings:
            differ = [name for name in settings if begun is None or begun.get(name) != settings[name]]
            raise ConfigError(
                f"{self.path} was begun with other {', '.join(differ)}: finish that run with what it was begun with, or"
                " remove the file to start again"
            )
        for line in lines[1:]:
            entry = json.loads(line)
            transcripts = [Transcript(**transcript) for transcript in entry["transcripts"]]
            self.results[entry["id"]] = Result(entry["samples"], transcripts)


def write_results(path: str, rows: Sequence[Row], results: Dict[str, Result], nbest: int) -> List[str]:
    """The files written: for several hypotheses `hypotheses_path(path)`, and the manifest `path`.

    n-best lists of an earlier manifest of that name would be taken for those of this one: they are removed.

    rows: languages and what else is known of the clips, in order; those without a result are left out.
    """
    rows = [row for row in rows if row.id in results]
    folder = os.path.dirname(os.path.abspath(path))
    best = [results[row.id].transcripts[0] for row in rows]
    written = (
        row._replace(audio=_from(folder, row.audio), n_samples=results[row.id].samples, tgt_text=transcript.text)
        for row, transcript in zip(rows, best)
    )
    lists = hypotheses_path(path)
    if nbest > 1:
        write_hypotheses(lists, ((row.id, results[row.id].transcripts) for row in rows))
    else:
        Path(lists).unlink(missing_ok=True)
    write_manifest(path, written, more={"mean_log_prob": [f"{one.mean_log_prob:.4f}" for one in best]})
    return [lists, path] if nbest > 1 else [path]


def _from(folder: str, audio: str) -> str:
    """The path of audio relative to the manifest's folder where it lies below, else from the root."""
    audio = os.path.abspath(audio)
    relative = os.path.relpath(audio, folder)
    return audio if relative.startswith(os.pardir) else relative
