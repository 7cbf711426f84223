"""Multilingual LibriSpeech: mls_LANGUAGE/SPLIT/transcripts.txt, and audio/SPEAKER/BOOK/SPEAKER_BOOK_INDEX.flac (or
.opus) beside it. The folder is that of one language, or one that holds several."""

from pathlib import Path
from typing import Iterator

from colld_fairseq.corpora.reading import keyed_lines
from colld_fairseq.corpora.request import Request, folders_with
from colld_fairseq.corpora.utterance import LeftOut, Listed, Utterance

LANGUAGES = {
    "dutch": "nl",
    "english": "en",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "polish": "pl",
    "portuguese": "pt",
    "spanish": "es",
}


def read(request: Request) -> Iterator[Listed]:
    for corpus in folders_with(request.folder, ["*/transcripts.txt"], "SPLIT/transcripts.txt"):
        language = _language(corpus.name) or request.unsaid_language
        if not request.wants_language(language):
            continue
        for transcripts in sorted(corpus.glob("*/transcripts.txt")):
            if request.wants_split(transcripts.parent.name):
                yield from _split(transcripts, language)


def _language(folder: str) -> str:
    """The code of `mls_polish` or `mls_polish_opus`; "" of a folder with another name."""
    return next((LANGUAGES[part] for part in folder.lower().split("_") if part in LANGUAGES), "")


def _split(transcripts: Path, language: str) -> Iterator[Listed]:
    split, audio = transcripts.parent, transcripts.parent / "audio"
    suffix = ".opus" if next(audio.glob("*/*/*.opus"), None) else ".flac"
    for entry in keyed_lines(transcripts, "\t"):
        if isinstance(entry, LeftOut):
            yield entry
            continue
        where, name, text = entry
        parts = name.split("_")
        if len(parts) != 3:
            yield LeftOut(where, "malformed row", f"{name!r} is not SPEAKER_BOOK_INDEX")
            continue
        path = audio / parts[0] / parts[1] / f"{name}{suffix}"
        yield Utterance(f"{language}-{name}", str(path), text, language, split.name, speaker=parts[0])
