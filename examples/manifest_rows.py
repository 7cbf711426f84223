"""Rows of speech-to-text manifests, for the examples: read, chosen by minutes."""

import random
from typing import Dict, Iterable, List

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import Row, join_manifests, read_manifest


def read_rows(paths: str) -> List[Row]:
    """Of manifests of either format, comma-separated; audio paths are absolute."""
    manifest = join_manifests([read_manifest(path) for path in paths.split(",")])
    return [manifest.row(i) for i in range(len(manifest))]


def labelled(rows: List[Row], minutes: float, seed: int) -> List[Row]:
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


def by_language(rows: Iterable[Row]) -> Dict[str, float]:
    """Minutes of each language."""
    minutes: Dict[str, float] = {}
    for row in rows:
        minutes[row.src_lang] = minutes.get(row.src_lang, 0.0) + row.n_samples / SAMPLE_RATE / 60
    return dict(sorted(minutes.items()))
