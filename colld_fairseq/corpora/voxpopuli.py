"""VoxPopuli's transcribed speech: LANGUAGE/asr_{train,dev,test}.tsv with raw_text and normalized_text, and the audio in
LANGUAGE/YEAR/ID.ogg, as its script cuts it, or anywhere else below LANGUAGE under that name."""

from pathlib import Path
from typing import Dict, Iterator

from colld_fairseq.corpora.reading import Record, table
from colld_fairseq.corpora.request import Request, folders_with
from colld_fairseq.corpora.utterance import LeftOut, Listed, Utterance
from colld_fairseq.data.audio import AUDIO_SUFFIXES

COLUMNS = ("id", "raw_text", "normalized_text", "speaker_id")


def read(request: Request) -> Iterator[Listed]:
    for corpus in folders_with(request.folder, ["asr_*.tsv"], "LANGUAGE/asr_train.tsv"):
        if not request.wants_language(corpus.name):
            continue
        audio = _audio_files(corpus)
        for path in sorted(corpus.glob("asr_*.tsv")):
            split = path.stem.removeprefix("asr_")
            if request.wants_split(split):
                for record in table(path, required=COLUMNS):
                    is_record = isinstance(record, Record)
                    yield _utterance(corpus, record, split, audio, request) if is_record else record


def _utterance(corpus: Path, record: Record, split: str, audio: Dict[str, str], request: Request) -> Listed:
    fields = record.fields
    name = fields["id"]
    if name not in audio:
        return LeftOut(name, "missing audio", f"no audio file of this name below {corpus}")
    # the normalized text of some rows is missing
    text = fields["raw_text"] if request.raw_text else fields["normalized_text"]
    return Utterance(name, audio[name], text, corpus.name, split, fields["speaker_id"])


def _audio_files(corpus: Path) -> Dict[str, str]:
    return {path.stem: str(path) for path in sorted(corpus.rglob("*")) if path.suffix in AUDIO_SUFFIXES}
