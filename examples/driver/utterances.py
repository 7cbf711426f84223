"""Utterances of manifests, for `prepare.py` of the recipes: read, and chosen by minutes."""

import random
from typing import Dict, Iterable, List

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import Row, join_manifests, read_manifest
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


def minutes_by_language(rows: Iterable[Row]) -> Dict[str, float]:
    minutes: Dict[str, float] = {}
    for row in rows:
        minutes[row.src_lang] = minutes.get(row.src_lang, 0.0) + row.n_samples / SAMPLE_RATE / 60
    return dict(sorted(minutes.items()))


def describe(name: str, rows: List[Row]) -> str:
    """`train.tsv: 10.0 min of de, 4.2 min of en`."""
    return f"{name}: " + ", ".join(f"{n:.1f} min of {language}" for language, n in minutes_by_language(rows).items())
