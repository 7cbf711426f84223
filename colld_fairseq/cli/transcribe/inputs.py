"""What `colld transcribe` is given: files, folders, archives and manifests, as rows with one reading interface."""

import functools
import os
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from colld_fairseq.data.audio import SUFFIXES, audio_info, find_zip_members, split_zip_spec
from colld_fairseq.data.audio_files import file_of, state_of
from colld_fairseq.data.manifest import AnyManifest, Row, read_manifests
from colld_fairseq.data.manifest_writer import checked_name
from colld_fairseq.data.rows import PathRows
from colld_fairseq.data.utterances import distinct_rows
from colld_fairseq.errors import AudioError, ConfigError, ManifestError

Rows = Union[AnyManifest, PathRows]

PART = "@"  # between the id of a recording and where a part of it begins


@dataclass(frozen=True)
class Utterances:
    """What is to be transcribed: `todo` are indices of rows, whose ids differ."""

    rows: Rows
    ids: Sequence[str]
    todo: np.ndarray
    describe: Callable[[Row], Row]  # fills in the languages
    known: Mapping[str, Any] = field(default_factory=dict)  # results of an earlier run, of parts of recordings too

    def __len__(self) -> int:
        return len(self.todo)

    def row(self, index: int) -> Row:
        return self.describe(self.rows.row(index))

    @functools.cached_property
    def row_of_id(self) -> Dict[str, int]:
        return {self.ids[row]: row for row in self.todo.tolist()}

    def audio_state(self, name: str) -> Optional[List[int]]:
        """Of the file of an utterance, or of a part of a recording, by its id."""
        row = self.row_of_id[name if name in self.row_of_id else name.rpartition(PART)[0]]
        return state_of(file_of(self.rows.audio_path(row)))

    def languages(self, names: Sequence[str]) -> List[str]:
        """Target languages of utterances, by their ids."""
        return [self.row(self.row_of_id[name]).tgt_lang for name in names]

    def spoken(self, names: Sequence[str]) -> List[str]:
        """Languages that they are spoken in, "" where unknown."""
        return [self.row(self.row_of_id[name]).src_lang for name in names]


def find_audio(names: Sequence[str]) -> Tuple[List[str], List[str]]:
    """Ids and paths of the audio in files, folders (and those below) and zip archives, in order: the path below the
    folder, the name in the archive, or the file as named; for all the full path where two would be the same.
    ConfigError: a name that is not there, or nothing found."""
    ids_by_path: Dict[str, str] = {}  # path -> id
    for name in names:
        before = len(ids_by_path)
        for short, path in _audio_of(name):
            ids_by_path.setdefault(path, short)
        if len(ids_by_path) == before and not os.path.isfile(name) and split_zip_spec(name) is None:
            raise ConfigError(f"{name}: no audio ({', '.join(SUFFIXES)}) there")
    if not ids_by_path:
        raise ConfigError("nothing to transcribe: name files or folders, or give --manifest")
    paths, ids = list(ids_by_path), list(ids_by_path.values())
    if len(set(ids)) < len(ids):
        ids = paths
    return ids, paths


def _audio_of(name: str) -> Iterator[Tuple[str, str]]:
    """(id, path) of every audio file under one name."""
    if os.path.isdir(name):
        for folder, folders, files in os.walk(name):
            folders.sort()
            for file in sorted(files):
                if file.lower().endswith(SUFFIXES):
                    path = os.path.join(folder, file)
                    yield os.path.relpath(path, name), path
    elif name.lower().endswith(".zip"):
        members = find_zip_members(name)
        yield from ((member, path) for member, path in members.items() if member.lower().endswith(SUFFIXES))
    else:
        yield name, name


def read_files(names: Sequence[str]) -> Tuple[PathRows, Dict[str, str]]:
    """Rows of the audio files that `find_audio` finds, and {id: reason} of those that cannot be opened."""
    ids, paths = find_audio(names)
    kept, lengths, bad = [], [], {}
    for name, path in zip(ids, paths):
        try:
            checked_name(name, "name")
            checked_name(path, "path")
            lengths.append(audio_info(path).num_samples)
            kept.append((name, path))
        except (AudioError, ManifestError) as error:
            bad[name] = str(error)
    return PathRows([path for _, path in kept], lengths, [name for name, _ in kept]), bad


def read_utterances_of_manifests(
    paths: str, audio_root: Optional[str], each_language: bool
) -> Tuple[AnyManifest, np.ndarray]:
    """The rows of manifests `A.tsv,B.tsv`, and which of them to transcribe: those of a repeated id once. each_language:
    results depend on a row's own target language; ConfigError for an id with several of them, which a manifest of the
    results could not hold twice."""
    manifest = read_manifests(paths, audio_root)
    ids = [manifest.text("id", row) for row in range(len(manifest))]
    rows = distinct_rows(ids)
    if each_language and len(rows) < len(ids):
        languages: Dict[str, str] = {}
        for row, name in enumerate(ids):
            language = manifest.text("tgt_lang", row)
            if languages.setdefault(name, language) != language:
                raise ConfigError(
                    f"{manifest.where(row)}: id {name!r} is there with the target languages {languages[name]!r} and"
                    f" {language!r}: transcribe one manifest at a time, or give --lang"
                )
    return manifest, rows
