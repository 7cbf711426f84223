"""All scores of a set of sentences in one dictionary, ready for JSON."""

from dataclasses import asdict
from typing import Any, Dict, Sequence

from colld_fairseq.data.text import TextNormalizer
from colld_fairseq.scoring.language_confusion import language_confusion
from colld_fairseq.scoring.metrics import CorpusScores
from colld_fairseq.scoring.sentences import Sentence


def build_report(sentences: Sequence[Sentence], normalizer: TextNormalizer = TextNormalizer()) -> Dict[str, Any]:
    """What is printed, ready for JSON: pairs, overall, signatures, language_confusion, text_normalization."""
    cleaned = [s._replace(hypothesis=normalizer(s.hypothesis), reference=normalizer(s.reference)) for s in sentences]
    scores = CorpusScores()
    for sentence in cleaned:
        scores.add(*sentence)
    confusion = language_confusion(
        [s.hypothesis for s in cleaned], [s.reference for s in cleaned], [s.tgt_lang for s in cleaned]
    )
    return {
        "pairs": [
            {"src_lang": src, "tgt_lang": tgt, **asdict(result)} for (src, tgt), result in scores.per_pair().items()
        ],
        "overall": asdict(scores.overall()),
        "signatures": scores.signatures(),
        "language_confusion": {language: asdict(counts) for language, counts in confusion.items()},
        "text_normalization": asdict(normalizer),
    }
