"""Which utterances of a corpus are taken, in which order; all that can be said before audio is opened."""

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Iterator, List, Set

from colld_fairseq.corpora.asked import check_asked
from colld_fairseq.corpora.layouts import reader
from colld_fairseq.corpora.normalization import normalized
from colld_fairseq.corpora.reading import is_text
from colld_fairseq.corpora.request import Request
from colld_fairseq.corpora.utterance import LeftOut, Listed, Utterance
from colld_fairseq.data.manifest_writer import checked_name
from colld_fairseq.data.text import TextNormalizer
from colld_fairseq.errors import ManifestError


@dataclass
class Plan:
    """The utterances to open, with their text normalized, those left out already, and whether any text is there."""

    utterances: List[Utterance]
    left_out: List[LeftOut]
    has_text: bool

    def digest(self) -> str:
        """sha256 of what is opened: of the utterances' audio and times, in order."""
        total = hashlib.sha256()
        for one in self.utterances:
            total.update(repr((one.id, one.audio, one.start, one.seconds)).encode())
        return total.hexdigest()


def make_plan(layout: str, request: Request, normalizer: TextNormalizer) -> Plan:
    """Everything the corpus lists. Raises ConfigError where something is asked for that it does not have, and
    ColldError of its layout."""
    taken: List[Utterance] = []
    left_out: List[LeftOut] = []
    names: Set[str] = set()
    for one in _listed(layout, request, normalizer):
        if isinstance(one, Utterance) and one.id in names:
            one = LeftOut(
                one.id, "duplicate id", "an earlier utterance has it (--columns id=NAME takes another column)"
            )
        if isinstance(one, LeftOut):
            left_out.append(one)
        else:
            names.add(one.id)
            taken.append(one)
    check_asked(request, taken, left_out)
    has_text = any(one.text or one.translations for one in taken)
    if has_text:
        without = [one for one in taken if not (one.text or one.translations)]
        taken = [one for one in taken if one.text or one.translations]
        left_out += (LeftOut(one.id, "no text", "neither transcript nor translation") for one in without)
    return Plan(taken, left_out, has_text)


def _listed(layout: str, request: Request, normalizer: TextNormalizer) -> Iterator[Listed]:
    for one in reader(layout, request)(request):
        if isinstance(one, Utterance):
            request.seen_translations.update(one.translations)
            one = _as_written(one, request, normalizer)
        yield one


def _as_written(one: Utterance, request: Request, normalizer: TextNormalizer) -> Listed:
    """The utterance as manifests can hold it: names checked, paths absolute, text normalized, wanted translations."""
    split = request.splits.get(one.split, one.split)
    audio = os.path.abspath(one.audio) if isinstance(one.audio, str) else one.audio
    try:
        checked_name(one.id, "id")
        checked_name(audio if isinstance(audio, str) else audio.file, "audio file")
        if re.search("[/\0]", checked_name(split, "split")):
            raise ManifestError(f"the split {split!r} cannot be the name of a file; name it by --splits NAME={split}")
        for language in filter(None, [one.language, *one.translations]):
            checked_name(language, "language")
    except ManifestError as error:
        return LeftOut(one.id, "name that no manifest can hold", str(error))
    if not all(map(is_text, [one.text, one.speaker, *one.translations.values()])):
        return LeftOut(one.id, "malformed row", "its text cannot be written as UTF-8")
    translations = {
        target: written
        for target, text in one.translations.items()
        if target in request.translate_into and (written := normalized(text, target, normalizer))
    }
    text = normalized(one.text, one.language, normalizer)
    return one._replace(audio=audio, text=text, translations=translations, split=split)
