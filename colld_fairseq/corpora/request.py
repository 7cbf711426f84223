"""What is asked for of a corpus."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from colld_fairseq.errors import ConfigError


@dataclass
class Request:
    """A folder (of some layouts: a file) with a corpus, and which part of it is wanted."""

    folder: Path
    languages: Tuple[str, ...] = ()
    """Those that are spoken, () for all; where a corpus does not say the language, the one it has."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """Split of the corpus -> split of the manifests; empty for all, under their own names."""
    translate_into: Tuple[str, ...] = ()
    translations: Optional[Path] = None
    """Where translations lie, if not in the folder (CoVoST 2)."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What a column is for -> its name, where the usual names do not tell."""
    raw_text: bool = False
    """Text as written rather than as normalized by the corpus, where it has both."""
    audio_root: Optional[Path] = None
    """Where relative paths in tables begin, if not at the table's folder."""
    seen_splits: Set[str] = field(default_factory=set)
    """What a layout has asked `wants_split` about: every split that is there, wanted or not."""
    seen_languages: Dict[str, str] = field(default_factory=dict)
    """The same of languages: each name -> the first of those that the language has; "" where none is said."""
    seen_translations: Set[str] = field(default_factory=set)

    def wants_split(self, name: str) -> bool:
        """Whether to take a split that is there. To be asked about all of them: a wanted one that never comes up is
        one that the corpus does not have."""
        self.seen_splits.add(name)
        return not self.splits or name in self.splits

    def wants_language(self, *names: str) -> bool:
        """Whether to take speech in a language that is there, which the corpus may have several names for (`de`,
        `de_de`). To be asked about all of them, as `wants_split`."""
        self.seen_languages.update(dict.fromkeys(names, names[0]))
        return not self.languages or any(name in self.languages for name in names)

    @property
    def unsaid_language(self) -> str:
        """Of utterances whose corpus does not say their language."""
        return self.languages[0] if len(self.languages) == 1 else ""

    def audio_path(self, path: str, folder: Path) -> str:
        """Full path of audio that a table in `folder` names."""
        return str((self.audio_root or folder) / path)


def parse_splits(text: str) -> Dict[str, str]:
    """{split of the corpus: split to write} of `train,dev` or `dev,train=train-clean-100,train-other-500`: NAME= takes
    all that follow, up to the next one; those before the first stand for themselves."""
    splits: Dict[str, str] = {}
    name = ""
    for part in filter(None, (part.strip() for part in text.split(","))):
        before, equals, after = (one.strip() for one in part.partition("="))
        split = after if equals else part
        if equals:
            name = before
        if not split or equals and not name:
            raise ConfigError(f"--splits {text!r}: {part!r} is not NAME=SPLIT")
        if split in splits or equals and name in splits.values():
            raise ConfigError(f"--splits {text!r} names {split if split in splits else name!r} twice")
        splits[split] = name or split
    for name in splits.values():
        if "/" in name or name.startswith("."):
            raise ConfigError(f"--splits {text!r}: {name!r} cannot be the name of a file; write NAME={name}")
    return splits


def parse_names(text: str) -> Tuple[str, ...]:
    """The codes in `de,fr`, each once."""
    return tuple(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))


def folders_with(folder: Path, patterns: Sequence[str], what: str) -> List[Path]:
    """The folder itself or else those directly in it (or in its `data/`) that have a file of one of the patterns.

    Raises ConfigError, with `what` there should be, where there is none.
    """
    candidates: Iterable[Path] = [folder]
    for candidates in ([folder], _subfolders(folder), _subfolders(folder / "data")):
        fitting = [one for one in candidates if any(next(one.glob(pattern), None) for pattern in patterns)]
        if fitting:
            return fitting
    raise nothing_there(folder, what)


def nothing_there(folder: Path, what: str) -> ConfigError:
    """The error for a folder that does not have the layout."""
    state = "there is no such folder" if not folder.exists() else f"no {what} there"
    return ConfigError(f"{folder}: {state}; give the folder of the corpus as it was unpacked")


def _subfolders(folder: Path) -> List[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
