"""LibriSpeech (and LibriSpeech-like copies): SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside its .flac files.

The subsets (train-clean-100, dev-other, ...) are the splits.
"""

from pathlib import Path
from typing import Iterator

from colld_fairseq.corpora.reading import keyed_lines
from colld_fairseq.corpora.request import Request, folders_with
from colld_fairseq.corpora.utterance import LeftOut, Listed, Utterance

TRANSCRIPTS = "*/*/*.trans.txt"


def read(request: Request) -> Iterator[Listed]:
    (root,) = folders_with(request.folder, [f"*/{TRANSCRIPTS}"], "SUBSET/SPEAKER/CHAPTER/*.trans.txt")[:1]
    language = request.unsaid_language or "en"
    if not request.wants_language(language):
        return
    for subset in sorted(path for path in root.iterdir() if next(path.glob(TRANSCRIPTS), None)):
        if request.wants_split(subset.name):
            for transcripts in sorted(subset.glob(TRANSCRIPTS)):
                yield from _chapter(transcripts, subset.name, language)


def _chapter(transcripts: Path, split: str, language: str) -> Iterator[Listed]:
    for entry in keyed_lines(transcripts):
        if isinstance(entry, LeftOut):
            yield entry
            continue
        _, name, text = entry
        audio = str(transcripts.parent / f"{name}.flac")
        yield Utterance(name, audio, text, language, split, speaker=name.split("-")[0])
