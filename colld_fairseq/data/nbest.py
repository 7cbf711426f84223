"""n-best lists as training targets: the hypotheses of the rows of manifests, with weights."""

import logging
import os
from typing import Any, Dict, List, Mapping, Tuple

import numpy as np
import pyarrow as pa

from colld_fairseq.data.hypotheses import hypotheses_path, read_entries
from colld_fairseq.data.manifest import JoinedManifest, Manifest
from colld_fairseq.errors import ManifestError

logger = logging.getLogger(__name__)


class NBestTargets:
    """The best `limit` hypotheses of each row whose manifest NAME.tsv has NAME.hypotheses.jsonl beside it.

    Weights are the softmax of their scores (natural logarithms), as in Yang et al. (2110.03334). Lists
    live in arrays, not in Python objects, which loader processes would copy.
    """

    def __init__(self, rows: JoinedManifest, limit: int) -> None:
        hypotheses: List[pa.Array] = []
        weights: List[np.ndarray] = []
        ends = [np.zeros(1, dtype=np.int64)]
        for part in rows.parts:
            of_rows = read_lists(part, limit) if os.path.isfile(hypotheses_path(part.path)) else {}
            lists = [of_rows.get(name, ()) for name in part.ids] if of_rows else [()] * len(part)
            hypotheses.append(pa.array([text for row in lists for text, _ in row], pa.string()))
            weights.append(np.array([weight for row in lists for _, weight in row], dtype=np.float64))
            ends.append(ends[-1][-1] + np.cumsum([len(row) for row in lists], dtype=np.int64))
            if of_rows:
                check_ids(part, of_rows)
                without = sum(not row for row in lists)
                logger.info("%s: n-best lists of %d rows, %d without", part.path, len(lists) - without, without)
        self.hypotheses = pa.chunked_array(hypotheses)
        self.weights, self.ends = np.concatenate(weights), np.concatenate(ends)

    def __len__(self) -> int:
        """How many hypotheses there are."""
        return len(self.hypotheses)

    def of(self, index: int) -> List[Tuple[str, float]]:
        """(text, weight) of a row, weights 1 in all; empty for a row without a list."""
        positions = range(self.ends[index], self.ends[index + 1])
        return [(self.hypotheses[i].as_py(), float(self.weights[i])) for i in positions]


def check_ids(manifest: Manifest, of_rows: Mapping[str, Any]) -> None:
    """ManifestError for lists of which no row of the manifest beside them has one."""
    if not any(name in of_rows for name in manifest.ids):
        raise ManifestError(
            f"{hypotheses_path(manifest.path)}: none of its {len(of_rows)} ids (such as {next(iter(of_rows))!r}) is one"
            f" of {manifest.path} (such as {manifest.ids[0]!r}): they are of other utterances, or of a manifest whose"
            " ids were changed afterwards; transcribe this one, or remove the file"
        )


def read_lists(manifest: Manifest, limit: int) -> Dict[str, List[Tuple[str, float]]]:
    """id -> (text, weight) of its best `limit` hypotheses."""
    lists = {}
    for name, hypotheses in read_entries(hypotheses_path(manifest.path)):
        best = sorted(hypotheses, key=lambda hypothesis: -hypothesis["score"])[:limit]
        relative = np.exp([hypothesis["score"] - best[0]["score"] for hypothesis in best])
        lists[name] = [(h["text"], weight) for h, weight in zip(best, relative / relative.sum())]
    return lists
