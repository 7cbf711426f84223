"""What opening the audio has given so far, kept in a file: a preparation that is stopped goes on where it was.

The first line says what is prepared; each further one is a finished part. Begun for another plan, it begins anew. A
part is opened again once a file of its audio has changed, whether that could be used or not.
"""

import itertools
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from colld_fairseq.corpora.arrow_audio import ArrowAudio
from colld_fairseq.corpora.measuring import Measured, Result, Source
from colld_fairseq.corpora.utterance import LeftOut
from colld_fairseq.data.audio_files import file_of, state_of
from colld_fairseq.files import errors_name
from colld_fairseq.json_lines import json_line, read_json_lines


class Journal:
    """results: of finished parts, by their index."""

    def __init__(
        self, path: Path, plan: str, parts: Sequence[Sequence[Source]], is_there: Callable[[int], bool]
    ) -> None:
        """plan: its digest. is_there: whether what else a part has written (its archive) is there."""
        self.path, self.parts = path, parts
        self.results: Dict[int, List[Result]] = {}
        entries = self._read() if path.exists() else []
        self.begun = bool(entries) and entries[0] == {"plan": plan}
        for entry in entries[1:] if self.begun else []:
            if self._still_holds(entry) and is_there(entry["part"]):
                self.results[entry["part"]] = [_decoded(one) for one in entry["results"]]
        self._file = open(path, "ab" if self.begun else "wb")
        if not self.begun:
            self._append({"plan": plan})

    def add(self, part: int, results: Sequence[Result]) -> None:
        """Note a finished part."""
        self.results[part] = list(results)
        self._append({"part": part, "results": list(map(_encoded, results)), "files": _states(self.parts[part])})

    def close(self) -> None:
        self._file.close()

    def _append(self, entry: Dict[str, Any]) -> None:
        with errors_name(self.path):
            self._file.write(json_line(entry))
            self._file.flush()

    def _read(self) -> List[Any]:
        """Its entries; none where it is no journal of this version."""
        with open(self.path, "rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)  # the line that was being written when the run was killed
        try:
            entries = [entry for _, entry in read_json_lines(self.path)]
            return entries if all(_is_entry(entry, len(self.parts)) for entry in entries[1:]) else []
        except ValueError:
            return []

    def _still_holds(self, entry: Dict[str, Any]) -> bool:
        """Whether the files are as they were."""
        part = self.parts[entry["part"]]
        return len(part) == len(entry["results"]) and entry["files"] == _states(part)


def _is_entry(entry: Any, parts: int) -> bool:
    return isinstance(entry, dict) and entry.keys() == {"part", "results", "files"} and entry["part"] in range(parts)


def _encoded(result: Result) -> Any:
    return list(result) if isinstance(result, Measured) else result._asdict()


def _decoded(entry: Any) -> Result:
    return LeftOut(**entry) if isinstance(entry, dict) else Measured(*entry)


def _states(part: Sequence[Source]) -> List[Optional[List[int]]]:
    """Size and time of change of the files that the audio is in, one of several utterances in a row once; None where
    there is none."""
    return [state_of(path) for path, _ in itertools.groupby(map(_file, part))]


def _file(source: Source) -> str:
    return source.audio.file if isinstance(source.audio, ArrowAudio) else file_of(source.audio)
