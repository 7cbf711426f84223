"""What opening the audio has given so far, kept in a file: a preparation that is stopped goes on where it was.

The first line says what is prepared; each further one is a finished part. Begun for another plan, it begins anew. Audio
that could not be used is tried again once its file has changed.
"""

import os
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from colld_fairseq.corpora.arrow_audio import ArrowAudio
from colld_fairseq.corpora.measuring import Measured, Result, Source
from colld_fairseq.corpora.utterance import LeftOut
from colld_fairseq.data.audio import split_zip_spec
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
        encoded = [_encoded(result, source) for result, source in zip(results, self.parts[part])]
        self._append({"part": part, "results": encoded})

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
        """Whether the files that could not be used are as they were."""
        part = self.parts[entry["part"]]
        return len(part) == len(entry["results"]) and all(
            one["file"] == _state(source) for one, source in zip(entry["results"], part) if isinstance(one, dict)
        )


def _is_entry(entry: Any, parts: int) -> bool:
    return isinstance(entry, dict) and entry.keys() == {"part", "results"} and entry["part"] in range(parts)


def _encoded(result: Result, source: Source) -> Any:
    return list(result) if isinstance(result, Measured) else {**result._asdict(), "file": _state(source)}


def _decoded(entry: Any) -> Result:
    return LeftOut(entry["id"], entry["kind"], entry["reason"]) if isinstance(entry, dict) else Measured(*entry)


def _state(source: Source) -> Optional[List[int]]:
    """Size and time of change of the file that the audio is in; None where there is none."""
    audio = source.audio
    archive = None if isinstance(audio, ArrowAudio) else split_zip_spec(audio)
    path = audio.file if isinstance(audio, ArrowAudio) else archive[0] if archive else audio
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return None
    return [state.st_size, state.st_mtime_ns]
