"""n-gram language models with interpolated modified Kneser-Ney smoothing, estimated in memory, written as ARPA.

Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling", section 3, as in KenLM's
`lmplz` (Heafield et al. 2013), which is the tool for corpora of many millions of words:

    p(w | h) = max(c(hw) - D(c(hw)), 0) / sum_x c(hx) + b(h) p(w | h')
    b(h) = sum_x min(c(hx), D(c(hx))) / sum_x c(hx)

h' is h without its first symbol, c counts the highest order, and for lower orders the different symbols that stand
before hw in the text (or how often it occurs, where it begins a sentence: nothing is before that). D is one of three
discounts for counts of 1, 2 and more, one triple an order. Below the unigrams every symbol of the vocabulary, `<unk>`
and `</s>` among them, is equally likely.
"""

import math
from collections import Counter, defaultdict
from typing import IO, Dict, Iterable, List, NamedTuple, Sequence, Tuple

from colld_fairseq.errors import ConfigError

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
# Where a small text has no symbols of some count, discounts cannot be estimated (those of `lmplz --discount_fallback`).
FALLBACK = (0.5, 1.0, 1.5)
NEVER = -99.0  # log10 of the probability of <s>, which is only ever a context

Symbols = Tuple[str, ...]


class Entry(NamedTuple):
    """Probability of an n-gram's last symbol after the others, and the weight of shorter contexts after all of it."""

    probability: float
    backoff: float


class Ngrams(NamedTuple):
    """orders[n - 1]: every n-gram of that order that is known."""

    orders: List[Dict[Symbols, Entry]]


def estimate(sentences: Iterable[Sequence[str]], order: int) -> Ngrams:
    """A model of the sentences (each a sequence of symbols), up to n-grams of `order`.

    Raises ConfigError where there is no sentence, and for symbols that only a model may use.
    """
    counts = adjusted_counts(count(sentences, order))
    orders: List[Dict[Symbols, Entry]] = []
    vocabulary = {UNKNOWN: 0, **{ngram[0]: 0 for ngram in counts[0] if ngram[0] != BEGIN}}
    shorter: Dict[Symbols, float] = {(): 1 / len(vocabulary)}
    for of_order in counts:
        probabilities, backoffs = smoothed(of_order, shorter)
        if orders:
            orders[-1] = with_backoffs(orders[-1], backoffs)
        else:
            probabilities[(UNKNOWN,)] = backoffs[()] * shorter[()]
            probabilities[(BEGIN,)] = 0.0
        orders.append({ngram: Entry(p, 1.0) for ngram, p in probabilities.items()})
        shorter = probabilities
    return Ngrams(orders)


def count(sentences: Iterable[Sequence[str]], order: int) -> List[Counter]:
    """How often each n-gram occurs, by order, with <s> before and </s> behind each sentence."""
    counts = [Counter() for _ in range(order)]
    for sentence in sentences:
        reserved = {BEGIN, END, UNKNOWN}.intersection(sentence)
        if reserved:
            raise ConfigError(f"the text contains {min(reserved)}, which has a meaning of its own in a language model")
        symbols = (BEGIN, *sentence, END)
        for length, of_order in enumerate(counts, start=1):
            of_order.update(symbols[i : i + length] for i in range(len(symbols) - length + 1))
    if not counts[0]:
        raise ConfigError("no text to estimate a language model of")
    return counts


def adjusted_counts(counts: List[Counter]) -> List[Counter]:
    """c of the module's formula, by order; <s> alone is no prediction and has none."""
    adjusted = []
    for of_order, longer in zip(counts, counts[1:]):
        before = Counter(ngram[1:] for ngram in longer)
        adjusted.append(Counter({g: c if g[0] == BEGIN else before[g] for g, c in of_order.items()}))
    adjusted.append(Counter(counts[-1]))
    adjusted[0].pop((BEGIN,), None)
    return adjusted


def discounts(of_order: Counter) -> Tuple[float, float, float]:
    """D of counts of 1, 2 and more."""
    having = Counter(value for value in of_order.values() if value <= 4)
    if any(having[k] == 0 for k in (1, 2, 3, 4)):
        return FALLBACK
    share = having[1] / (having[1] + 2 * having[2])
    estimated = tuple(k - (k + 1) * share * having[k + 1] / having[k] for k in (1, 2, 3))
    return estimated if all(0 < d < k for k, d in enumerate(estimated, start=1)) else FALLBACK


def smoothed(of_order: Counter, shorter: Dict[Symbols, float]) -> Tuple[Dict[Symbols, float], Dict[Symbols, float]]:
    """Probability of each n-gram, and backoff of each of their contexts.

    shorter: probability of each (n-1)-gram; of unigrams, {(): that of any symbol}.
    """
    amount = (0.0, *discounts(of_order))
    total: Dict[Symbols, int] = defaultdict(int)
    kept_back: Dict[Symbols, float] = defaultdict(float)
    for ngram, c in of_order.items():
        total[ngram[:-1]] += c
        kept_back[ngram[:-1]] += min(c, amount[min(c, 3)])
    backoffs = {context: kept_back[context] / total[context] for context in total}
    probabilities = {
        ngram: max(c - amount[min(c, 3)], 0.0) / total[ngram[:-1]] + backoffs[ngram[:-1]] * shorter[ngram[1:]]
        for ngram, c in of_order.items()
    }
    return probabilities, backoffs


def with_backoffs(entries: Dict[Symbols, Entry], backoffs: Dict[Symbols, float]) -> Dict[Symbols, Entry]:
    return {ngram: entry._replace(backoff=backoffs.get(ngram, 1.0)) for ngram, entry in entries.items()}


def write_arpa(model: Ngrams, out: IO[str]) -> None:
    """The model in ARPA format, as KenLM reads it."""
    print("\\data\\", file=out)
    for length, entries in enumerate(model.orders, start=1):
        print(f"ngram {length}={len(entries)}", file=out)
    for length, entries in enumerate(model.orders, start=1):
        print(f"\n\\{length}-grams:", file=out)
        highest = length == len(model.orders)
        for ngram, (probability, backoff) in sorted(entries.items()):
            weight = "" if highest else f"\t{math.log10(backoff):.7f}"
            print(f"{log10(probability):.7f}\t{' '.join(ngram)}{weight}", file=out)
    print("\n\\end\\", file=out)


def log10(probability: float) -> float:
    return math.log10(probability) if probability > 0 else NEVER
