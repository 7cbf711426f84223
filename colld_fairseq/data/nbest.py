"""n-best lists as training targets: the texts of the rows of manifests, with weights."""

import logging
import os
from typing import Dict, List, Tuple

import numpy as np
import pyarrow as pa

from colld_fairseq.data.hypotheses import hypotheses_path, read_entries
from colld_fairseq.data.manifest import JoinedManifest, Manifest

logger = logging.getLogger(__name__)


class NBestTargets:
    """The best `limit` texts of each row whose manifest NAME.tsv has NAME.hypotheses.jsonl beside it.

    Weights are the softmax of the scores of those texts (natural logarithms), as in Yang et al. (2110.03334). Lists
    live in arrays, not in Python objects, which loader processes would copy.
    """

    def __init__(self, rows: JoinedManifest, limit: int) -> None:
        texts: List[pa.Array] = []
        weights: List[np.ndarray] = []
        ends = [np.zeros(1, dtype=np.int64)]
        for part in rows.parts:
            of_rows = read_lists(part, limit) if os.path.isfile(hypotheses_path(part.path)) else {}
            found = [of_rows.get(name, ()) for name in part.ids] if of_rows else [()] * len(part)
            texts.append(pa.array([text for row in found for text, _ in row], pa.string()))
            weights.append(np.array([weight for row in found for _, weight in row], dtype=np.float64))
            ends.append(ends[-1][-1] + np.cumsum([len(row) for row in found], dtype=np.int64))
            if of_rows:
                without = sum(not row for row in found)
                logger.info("%s: n-best lists of %d rows, %d without", part.path, len(found) - without, without)
        self.texts, self.weights, self.ends = pa.chunked_array(texts), np.concatenate(weights), np.concatenate(ends)

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self.texts)

    def of(self, index: int) -> List[Tuple[str, float]]:
        """(text, weight) of a row, weights 1 in all; empty for a row without a list."""
        places = range(self.ends[index], self.ends[index + 1])
        return [(self.texts[place].as_py(), float(self.weights[place])) for place in places]


def read_lists(manifest: Manifest, limit: int) -> Dict[str, List[Tuple[str, float]]]:
    """id -> (text, weight) of its best `limit` hypotheses."""
    lists = {}
    for name, hypotheses in read_entries(hypotheses_path(manifest.path)):
        best = sorted(hypotheses, key=lambda hypothesis: -hypothesis["score"])[:limit]
        relative = np.exp([hypothesis["score"] - best[0]["score"] for hypothesis in best])
        lists[name] = [(h["text"], weight) for h, weight in zip(best, relative / relative.sum())]
    return lists
