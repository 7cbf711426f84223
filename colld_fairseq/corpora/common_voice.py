"""Common Voice: LANGUAGE/{train,dev,test,validated,other}.tsv and the audio in LANGUAGE/clips/; with translations those
of CoVoST 2, covost_v2.SOURCE_TARGET.tsv, whose splits then count; their sentences are those of validated.tsv.

The folder is that of one language, or the release with one folder for each. Without --splits: train, dev and test.
"""

from pathlib import Path
from typing import Dict, Iterator, List

from colld_fairseq.corpora.reading import Record, table
from colld_fairseq.corpora.request import Request, folders_with
from colld_fairseq.corpora.utterance import LeftOut, Listed, Utterance
from colld_fairseq.data.audio import AUDIO_SUFFIXES
from colld_fairseq.errors import ConfigError

SPLITS = ("train", "dev", "test")
COLUMNS = ("client_id", "path", "sentence")
COVOST_COLUMNS = ("path", "translation", "split")


def read(request: Request) -> Iterator[Listed]:
    tables = [f"{split}.tsv" for split in (*SPLITS, "validated")]
    for corpus in folders_with(request.folder, tables, "LANGUAGE/train.tsv"):
        if not request.wants_language(corpus.name):
            continue
        yield from _translated(corpus, request) if request.translate_into else _transcribed(corpus, request)


def _transcribed(corpus: Path, request: Request) -> Iterator[Listed]:
    for path in sorted(corpus.glob("*.tsv")):
        split = path.stem
        if request.wants_split(split) and (request.splits or split in SPLITS):
            for record in table(path, required=COLUMNS):
                yield record if isinstance(record, LeftOut) else _utterance(corpus, record, split)


def _translated(corpus: Path, request: Request) -> Iterator[Listed]:
    """The sentences of validated.tsv that CoVoST 2 has, in its splits."""
    validated = corpus / "validated.tsv"
    if not validated.is_file():
        raise ConfigError(
            f"{validated}: is missing, and has the sentences of CoVoST 2; copy it from Common Voice's release"
        )
    translations: Dict[str, Dict[str, str]] = {}
    splits: Dict[str, str] = {}
    for target, path in _covost_tables(corpus, request):
        for record in table(path, required=COVOST_COLUMNS):
            if isinstance(record, LeftOut):
                yield record
                continue
            name, split = record.fields["path"], record.fields["split"].removesuffix("_covost")
            if splits.setdefault(name, split) != split:
                yield LeftOut(record.where, "malformed row", f"{name} is in {split}, but elsewhere in {splits[name]}")
                continue
            translations.setdefault(name, {})[target] = record.fields["translation"]
    for record in table(validated, required=COLUMNS):
        if isinstance(record, LeftOut):
            yield record
            continue
        name = record.fields["path"]
        if name in splits and request.wants_split(splits[name]):
            split = splits.pop(name)
            yield _utterance(corpus, record, split)._replace(translations=translations[name])
    for name, split in splits.items():
        if request.wants_split(split):
            reason = f"is in CoVoST 2, but not in {validated} (its release is Common Voice 4)"
            yield LeftOut(name, "malformed row", reason)


def _covost_tables(corpus: Path, request: Request) -> List:
    """(target language, table) of CoVoST 2 for each language asked for; ConfigError where there is none at all."""
    folders = [request.translations] if request.translations else [corpus, corpus.parent]
    tables = [
        (target, folder / f"covost_v2.{corpus.name}_{covost}.tsv")
        for target in request.translate_into
        for covost in dict.fromkeys([target, {"zh": "zh-CN", "sv": "sv-SE"}.get(target, target)])
        for folder in folders
    ]
    there = [(target, path) for target, path in tables if path.is_file()]
    if not there:
        raise ConfigError(
            f"{tables[0][1]}: no such table of CoVoST 2; unpack it there, or name its folder by --translations"
        )
    return there


def _utterance(corpus: Path, record: Record, split: str) -> Utterance:
    fields = record.fields
    name = fields["path"]  # CoVoST and some releases leave out the ending
    file = name if Path(name).suffix in AUDIO_SUFFIXES else f"{name}.mp3"
    return Utterance(
        id=Path(file).stem,
        audio=str(corpus / "clips/" / file),
        text=fields["sentence"],
        language=fields.get("locale") or corpus.name,
        split=split,
        speaker=fields["client_id"],
    )
