"""Scores of real decoding inside validation: counts that add up over batches and workers, metrics from their sums."""

from typing import Dict, List

import torch
from torch import Tensor

from colld_fairseq.scoring.metrics import STATISTICS_SIZE, compute_scores, sentence_statistics

SCORES = ("wer", "cer", "bleu", "chrf")


class DecodingMeter:
    """Sums of sentence statistics, float64 tensors [STATISTICS_SIZE], for each language pair "src-tgt" of the
    validation sets: fairseq adds up logging outputs over workers only when they have the same keys."""

    def __init__(self, pairs: List[str]) -> None:
        self.statistics: Dict[str, Tensor] = {pair: torch.zeros(STATISTICS_SIZE, dtype=torch.float64) for pair in pairs}

    def add(self, hypothesis: str, reference: str, src_lang: str, tgt_lang: str) -> None:
        counts = torch.from_numpy(sentence_statistics(hypothesis, reference, tgt_lang)).double()
        self.statistics[f"{src_lang}-{tgt_lang}"] += counts


def log_scores(metrics, logging_outputs) -> None:
    """Log wer, cer, bleu and chrf over all pairs and, with several pairs, for each: wer, wer_es-en, ctc_wer, ..."""
    keys = sorted({key for log in logging_outputs for key in log if is_statistics(key)})
    groups: Dict[str, List[str]] = {}
    for key in keys:
        total = sum(log[key] for log in logging_outputs if key in log)
        metrics.log_scalar_sum(key, total.cpu())
        prefix = "ctc_" if key.startswith("_ctc_") else ""
        groups.setdefault(prefix, []).append(key)
    for prefix, members in groups.items():
        for score in SCORES:
            metrics.log_derived(f"{prefix}{score}", derived(members, score))
            for key in members:
                pair = key[len(prefix) + 1 :]
                metrics.log_derived(f"{prefix}{score}_{pair}", derived([key], score))


def is_statistics(key: str) -> bool:
    return key.startswith("_") and "-" in key


def derived(keys: List[str], score: str):
    def compute(meters) -> float:
        total = sum(meters[key].sum for key in keys)
        value = getattr(compute_scores(total.numpy()), score)
        return float("nan") if value is None else round(value, 2)  # no score without reference words

    return compute
