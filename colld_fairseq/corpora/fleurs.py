"""FLEURS: LOCALE/{train,dev,test}.tsv and the audio in LOCALE/audio/SPLIT/, as published (archives unpacked); the
folder is that of one locale, or one that holds several (also in `data/`, as on Hugging Face).

Sentences are parallel: a translation is the sentence with the same number in another locale, as it is written.
Columns: number, file, text as written, text normalized, its characters, samples, gender.
"""

import shlex
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

from colld_fairseq.corpora.reading import table
from colld_fairseq.corpora.request import Request, folders_with
from colld_fairseq.corpora.utterance import LeftOut, Listed, Utterance
from colld_fairseq.errors import ConfigError

COLUMNS = ("id", "file_name", "raw_transcription", "transcription", "characters", "num_samples", "gender")
SPLITS = ("train", "dev", "test")


def read(request: Request) -> Iterator[Listed]:
    locales = folders_with(request.folder, [f"{split}.tsv" for split in SPLITS], "LOCALE/train.tsv")
    targets = _sentences_of_targets(request, locales)
    for locale in locales:
        language = language_of(locale.name)
        if request.wants_language(language, locale.name):
            for split in SPLITS:
                if (locale / f"{split}.tsv").is_file() and request.wants_split(split):
                    yield from _split(locale, language, split, targets, request.raw_text)


def language_of(locale: str) -> str:
    """The code of `de_de`, `cmn_hans_cn` (zh, as everywhere else), `pt_br`, `yue_hant_hk`."""
    language = locale.split("_")[0]
    return {"cmn": "zh"}.get(language, language)


def _split(locale: Path, language: str, split: str, targets: Dict, raw: bool) -> Iterator[Listed]:
    audio = _audio_folder(locale, split)
    for record in table(locale / f"{split}.tsv", COLUMNS):
        if isinstance(record, LeftOut):
            yield record
            continue
        fields = record.fields
        translations = {
            target: sentences[fields["id"]]
            for target, sentences in targets.items()
            if target != language and fields["id"] in sentences
        }
        yield Utterance(
            id=f"{locale.name}-{Path(fields['file_name']).stem}",
            audio=str(audio / fields["file_name"]),
            text=fields["raw_transcription" if raw else "transcription"],
            language=language,
            split=split,
            translations=translations,
        )


def _audio_folder(locale: Path, split: str) -> Path:
    """ConfigError where the audio still lies in the archive that was published, with the command that unpacks it."""
    folder = locale / split if (locale / split).is_dir() else locale / "audio" / split
    archive = locale / "audio" / f"{split}.tar.gz"
    if archive.is_file() and not folder.is_dir():
        archives = f"{shlex.quote(str(locale.parent))}/*/audio/*.tar.gz"
        raise ConfigError(
            f'{archive}: not unpacked yet; unpack it with: for a in {archives}; do tar -xzf "$a" -C "${{a%/*}}"; done'
        )
    return folder


def _sentences_of_targets(request: Request, locales: List[Path]) -> Dict[str, Dict[str, str]]:
    """{target language: {number of a sentence: the sentence}}. ConfigError for a language that is not there."""
    if not request.translate_into:
        return {}
    beside = folders_with(locales[0].parent, [f"{split}.tsv" for split in SPLITS], "LOCALE/train.tsv")
    targets: Dict[str, Dict[str, str]] = {}
    for target in request.translate_into:
        fitting = [one for one in beside if target in (one.name, language_of(one.name))]
        if not fitting:
            raise ConfigError(
                f"{locales[0].parent}: no locale of the language {target!r} to translate into; unpack it beside them"
            )
        targets[target] = dict(_sentences(fitting[0]))
    return targets


def _sentences(locale: Path) -> Iterator[Tuple[str, str]]:
    for split in SPLITS:
        if (locale / f"{split}.tsv").is_file():
            for record in table(locale / f"{split}.tsv", COLUMNS):
                if not isinstance(record, LeftOut):
                    yield record.fields["id"], record.fields["raw_transcription"]
