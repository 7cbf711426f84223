"""Utterances of manifests, for `prepare.py` of the recipes: read, and chosen by minutes."""

import random
from typing import Collection, Dict, Iterable, List

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import Row, join_manifests, read_manifest
from colld_fairseq.durations import duration_text
from colld_fairseq.files import split_paths


def read_rows(paths: str) -> List[Row]:
    """Of manifests of either format, comma-separated; audio paths are absolute."""
    manifest = join_manifests([read_manifest(path) for path in split_paths(paths)])
    return [manifest.row(index) for index in range(len(manifest))]


def with_minutes(rows: List[Row], minutes: float, seed: int) -> List[Row]:
    """Of each language the first rows of a shuffle until they last `minutes` (all of them where it has less)."""
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    chosen: List[Row] = []
    seconds: Dict[str, float] = {}
    for row in shuffled:
        if seconds.get(row.src_lang, 0.0) < 60 * minutes:
            chosen.append(row)
            seconds[row.src_lang] = seconds.get(row.src_lang, 0.0) + row.n_samples / SAMPLE_RATE
    return chosen


def each_utterance_once(rows: Iterable[Row], besides: Collection[str] = ()) -> List[Row]:
    """The first row of every utterance that is not among the audio paths `besides`."""
    chosen: Dict[str, Row] = {}
    for row in rows:
        if row.audio not in besides:
            chosen.setdefault(row.audio, row)
    return unique_ids(chosen.values())


def unique_ids(rows: Iterable[Row]) -> List[Row]:
    """An id seen before gets its target language appended, and then a number."""
    named: Dict[str, Row] = {}
    for row in rows:
        name, suffix = row.id, 2
        if name in named:
            name = f"{row.id}:{row.tgt_lang}"
        while name in named:
            name, suffix = f"{row.id}:{row.tgt_lang}:{suffix}", suffix + 1
        named[name] = row._replace(id=name)
    return list(named.values())


def minutes_by_language(rows: Iterable[Row]) -> Dict[str, float]:
    minutes: Dict[str, float] = {}
    for row in rows:
        minutes[row.src_lang] = minutes.get(row.src_lang, 0.0) + row.n_samples / SAMPLE_RATE / 60
    return dict(sorted(minutes.items()))


def describe(name: str, rows: List[Row]) -> str:
    """`train.tsv: 10.0 min of de, 4.2 min of en`."""
    return f"{name}: " + ", ".join(f"{n:.1f} min of {language}" for language, n in minutes_by_language(rows).items())


def amount(name: str, rows: List[Row]) -> str:
    """`train.tsv: 1346 utterances, 73.1 min`"""
    return f"{name}: {len(rows)} utterances, {duration_text(sum(row.n_samples for row in rows) / SAMPLE_RATE)}"
