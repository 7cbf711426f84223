"""Language confusion: do hypotheses look like the language they should be in?

Multilingual models sometimes answer in another language than asked for. A trained identifier would be needed to say so
with certainty; the two counts made here need nothing but the references of the same file:

- `wrong_script`: most letters of the hypothesis are of Unicode scripts that make up less than 2 % of the letters in the
  references of its language. Tells Russian from English, never Spanish from Italian.
- `nearer_to_another`: its character trigrams are more probable under the references of another language of the file
  (naive Bayes, add-one smoothing). Tells any two languages apart, but errs on short or garbled text: compare with
  `references_misjudged`, the references that it gets wrong (each judged without its own trigrams).

Sentences without a letter are in neither count.
"""

import math
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Dict, List, Optional, Sequence, Set

from colld_fairseq.errors import ColldError

RARE_SCRIPT = 0.02  # share of letters below which a script counts as foreign to a language (names, units)


@lru_cache(maxsize=None)
def letter_script(character: str) -> Optional[str]:
    """Script of a letter by its Unicode name: "LATIN", "CYRILLIC", "CJK", ...; None for what is no letter."""
    if unicodedata.category(character)[0] != "L":
        return None
    words = unicodedata.name(character, "UNNAMED").split()
    return words[1] if words[0] in ("FULLWIDTH", "HALFWIDTH") else words[0]


def _scripts(text: str) -> Counter:
    return Counter(script for script in map(letter_script, text) if script is not None)


def _trigrams(text: str) -> Counter:
    padded = f" {' '.join(text.lower().split())} "
    return Counter(padded[i : i + 3] for i in range(len(padded) - 2))


@dataclass
class LanguageConfusion:
    """Counts for one expected target language; see the top of this file."""

    sentences: int = 0
    judged: int = 0  # sentences whose hypothesis has a letter
    wrong_script: int = 0
    nearer_to_another: Optional[int] = None  # None where the file has one language only
    references_misjudged: Optional[int] = None
    nearest: Dict[str, int] = field(default_factory=dict)  # language -> hypotheses nearest to it


class _TrigramProfiles:
    """Trigram counts of the references of each language."""

    def __init__(self, references: Sequence[str], languages: Sequence[str]):
        self.counts: Dict[str, Counter] = defaultdict(Counter)
        for reference, language in zip(references, languages):
            self.counts[language].update(_trigrams(reference))
        self.languages = sorted(self.counts)
        self.totals = {language: sum(counts.values()) for language, counts in self.counts.items()}
        self.vocabulary = len(set().union(*self.counts.values())) + 1

    def nearest(self, text: str, own_reference: str, own_language: str) -> str:
        """Most probable language; the sentence's own reference is taken out of its language's profile first,
        so that a hypothesis is not judged by the answer it should have given."""
        trigrams, left_out = _trigrams(text), _trigrams(own_reference)
        best, best_score = own_language, -math.inf
        for language in [own_language, *(name for name in self.languages if name != own_language)]:
            removed = left_out if language == own_language else Counter()
            counts = self.counts[language]
            denominator = math.log(self.totals[language] - sum(removed.values()) + self.vocabulary)
            score = sum(
                n * (math.log(counts.get(trigram, 0) - removed.get(trigram, 0) + 1) - denominator)
                for trigram, n in trigrams.items()
            )
            if score > best_score:
                best, best_score = language, score
        return best


def language_confusion(
    hypotheses: Sequence[str], references: Sequence[str], tgt_langs: Sequence[str]
) -> Dict[str, LanguageConfusion]:
    """{expected target language: counts}; the three sequences run in parallel."""
    if not len(hypotheses) == len(references) == len(tgt_langs):
        raise ColldError(
            f"{len(hypotheses)} hypotheses, {len(references)} references and {len(tgt_langs)} languages; "
            "there must be one of each for every sentence"
        )
    letters: Dict[str, Counter] = defaultdict(Counter)
    for reference, language in zip(references, tgt_langs):
        letters[language].update(_scripts(reference))
    familiar: Dict[str, Set[str]] = {
        language: {script for script, n in counts.items() if n >= RARE_SCRIPT * sum(counts.values())}
        for language, counts in letters.items()
    }
    profiles = _TrigramProfiles(references, tgt_langs)
    several = len(profiles.languages) > 1
    zero = 0 if several else None
    result = {name: LanguageConfusion(nearer_to_another=zero, references_misjudged=zero) for name in profiles.languages}
    nearest: Dict[str, List[str]] = defaultdict(list)
    for hypothesis, reference, language in zip(hypotheses, references, tgt_langs):
        counts = result[language]
        counts.sentences += 1
        if several and _scripts(reference):
            misjudged = profiles.nearest(reference, reference, language) != language
            counts.references_misjudged = (counts.references_misjudged or 0) + misjudged
        scripts = _scripts(hypothesis)
        if not scripts:
            continue
        counts.judged += 1
        foreign = sum(n for script, n in scripts.items() if script not in familiar[language])
        counts.wrong_script += 2 * foreign > sum(scripts.values())
        if several:
            guess = profiles.nearest(hypothesis, reference, language)
            nearest[language].append(guess)
            counts.nearer_to_another = (counts.nearer_to_another or 0) + (guess != language)
    for language, guesses in nearest.items():
        result[language].nearest = dict(sorted(Counter(guesses).items()))
    return result
