"""Which measures a test set is judged by, and how its language pairs are called."""

from typing import Dict, Tuple

# What is scored how: recognition by errors, translation by matches.
MEASURES: Dict[str, Tuple[str, str]] = {"asr": ("wer", "cer"), "st": ("bleu", "chrf")}
NAMES = {"wer": "WER", "cer": "CER", "bleu": "BLEU", "chrf": "chrF"}
LOWER_IS_BETTER = {"wer": True, "cer": True, "bleu": False, "chrf": False}


def kind_of(src_lang: str, tgt_lang: str) -> str:
    """ "asr", or "st" of a pair that translates."""
    return "asr" if src_lang in ("", tgt_lang) else "st"


def pair_name(src_lang: str, tgt_lang: str) -> str:
    """ "de" of recognition, "de → en" of translation."""
    return tgt_lang if kind_of(src_lang, tgt_lang) == "asr" else f"{src_lang} → {tgt_lang}"
