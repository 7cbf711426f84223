"""Frame labels in the files that fairseq's task `hubert_pretraining` reads.

In one folder: SPLIT.tsv (the folder audio paths start from, then path<TAB>samples), SPLIT.km (one line per utterance,
the cluster of every frame) and dict.km.txt, which lists the clusters.
"""

import os
from pathlib import Path
from typing import Dict, Iterable, List, Sequence

import numpy as np

from colld_fairseq.errors import ConfigError
from colld_fairseq.files import split_paths, write_atomically
from colld_fairseq.teachers.frame_source import Corpus


def parse_splits(arguments: Sequence[str]) -> Dict[str, List[str]]:
    """{"train": ["a.tsv", "b.tsv"]} of ["train=a.tsv,b.tsv"]. Raises ConfigError."""
    splits: Dict[str, List[str]] = {}
    for text in arguments:
        name, _, paths = text.partition("=")
        if not name or not paths or "/" in name or name in splits:
            raise ConfigError(
                f"--label-manifests {text!r}: write SPLIT=A.tsv,B.tsv once for each split, for example train=a.tsv"
            )
        splits[name] = split_paths(paths)
    return splits


def split_files(directory: Path, splits: Iterable[str]) -> List[Path]:
    """Everything that is written for these splits."""
    return [directory / "dict.km.txt", *(directory / f"{split}.{end}" for split in splits for end in ("km", "tsv"))]


def write_dictionary(directory: Path, num_clusters: int) -> None:
    """dict.km.txt: every cluster in order, so that cluster k is always fairseq's symbol k + 4."""
    lines = "".join(f"{cluster} 1\n" for cluster in range(num_clusters))
    write_atomically(directory / "dict.km.txt", lines.encode())


def write_split(directory: Path, split: str, corpus: Corpus, labels: Dict[str, np.ndarray]) -> int:
    """SPLIT.km and SPLIT.tsv of the utterances that have labels {id: [frames]}, in their order; returns how many."""
    rows = [row for row in corpus.rows.tolist() if corpus.ids[row] in labels]
    paths = [corpus.manifest.audio_path(row) for row in rows]
    root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else os.sep
    km = "".join(" ".join(map(str, labels[corpus.ids[row]].tolist())) + "\n" for row in rows)
    tsv = "".join(f"{os.path.relpath(path, root)}\t{corpus.n_samples[row]}\n" for row, path in zip(rows, paths))
    write_atomically(directory / f"{split}.km", km.encode())
    write_atomically(directory / f"{split}.tsv", f"{root}\n{tsv}".encode())
    return len(rows)
