"""The utterances that the page shows: those that cost a system most, and those that changed most between two.

What an utterance costs is its error rate times its length: of recognition word edits over words (characters in
languages written without spaces), of translation what chrF lacks to 100. "Worst" are those that cost most beyond what
the system's mean rate would cost at their length, so that neither long utterances nor single words always come first.
"""

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np
from rapidfuzz.distance import Levenshtein

from colld_fairseq.report.decoded import Decoded, Utterance, readable
from colld_fairseq.report.sections import Entry, Section, System, same_utterances
from colld_fairseq.scoring.metrics import base_language, bleu_tokenizer, compute_scores

_MOST_REASONS = 2


class Piece(NamedTuple):
    """Of a hypothesis beside its reference. kind: "equal", "replace", "insert" or "delete"; `reference`: what stands
    there in the reference of what is replaced."""

    kind: str
    text: str
    reference: str = ""


class Written(NamedTuple):
    """An utterance as a system writes it; `cost` in words for the reader."""

    system: System
    pieces: List[Piece]
    cost: str


@dataclass
class Card:
    """An utterance with all its hypotheses; `reasons`: why it is shown."""

    utterance: Utterance
    reference: str
    separator: str
    written: List[Written]
    reasons: List[str] = field(default_factory=list)


def choose(section: Section, comparisons: Sequence[Tuple[str, System, System]], count: int) -> List[Card]:
    """At most `count` of the worst and `count` of the most changed utterances of a section, without repetition.

    Systems and comparisons take turns. Only of systems that decoded the same utterances as the first that has any.
    """
    entries = [entry for entry in section.entries if entry.decoded[0].rows(section.kind)]
    entries = [entry for entry in entries if same_utterances(entry, entries[0], section.kind)]
    costs = {entry.system.index: _Costs(entry.decoded[0], section.kind) for entry in entries}
    reasons: Dict[int, List[str]] = {}
    worst = [_worst(costs[entry.system.index], entry.system.label) for entry in entries]
    changed = [
        _changed(costs[system.index], costs[baseline.index], f"{system.label}", baseline.label)
        for _, system, baseline in comparisons
        if system.index in costs and baseline.index in costs
    ]
    for rankings in (worst, changed):
        new = 0
        for row, reason in _in_turn(rankings):
            if new == count and row not in reasons:
                break
            new += row not in reasons
            if len(reasons.setdefault(row, [])) < _MOST_REASONS:
                reasons[row].append(reason)
    return [_card(entries, costs, section.kind, row, why) for row, why in reasons.items()]


class _Costs:
    """Error rates [N] and lengths [N] of the utterances of a kind."""

    def __init__(self, decoded: Decoded, kind: str):
        self.utterances = [decoded.utterances[row] for row in decoded.rows(kind)]
        self.kind = kind
        self.lengths = np.array([max(1, len(units(one.reference, one.tgt_lang))) for one in self.utterances], float)
        if kind == "asr":
            self.edits = np.array([_edits(one) for one in self.utterances], float)
            self.rates = self.edits / self.lengths
        else:
            rows = decoded.statistics[decoded.rows(kind)]
            self.rates = 1 - np.array([compute_scores(row).chrf for row in rows]) / 100
        self.excess = (self.rates - (self.rates * self.lengths).sum() / self.lengths.sum()) * self.lengths

    def in_words(self, row: int) -> str:
        if self.kind == "st":
            return f"chrF {100 * (1 - self.rates[row]):.1f}"
        unit = "words" if is_spaced(self.utterances[row].tgt_lang) else "characters"
        of = len(units(self.utterances[row].reference, self.utterances[row].tgt_lang))
        return f"{self.edits[row]:.0f} edits to {of} {unit}"


def _worst(costs: _Costs, label: str) -> Iterator[Tuple[int, str]]:
    for row in np.argsort(-costs.excess, kind="stable").tolist():
        if costs.excess[row] > 0:
            yield row, f"among the worst of {label}"


def _changed(system: _Costs, baseline: _Costs, label: str, other: str) -> Iterator[Tuple[int, str]]:
    change = (system.rates - baseline.rates) * system.lengths
    for row in np.argsort(-np.abs(change), kind="stable").tolist():
        if abs(change[row]) > 1e-9:
            yield row, f"{label} much {'worse' if change[row] > 0 else 'better'} than {other}"


def _in_turn(rankings: Iterable[Iterator[Tuple[int, str]]]) -> Iterator[Tuple[int, str]]:
    for turn in zip_longest(*rankings):
        yield from (one for one in turn if one is not None)


def _card(entries: Sequence[Entry], costs: Dict[int, _Costs], kind: str, row: int, reasons: List[str]) -> Card:
    utterance = costs[entries[0].system.index].utterances[row]
    separator = " " if is_spaced(utterance.tgt_lang) else ""
    written = []
    for entry in entries:
        own = costs[entry.system.index]
        hypothesis = own.utterances[row].hypothesis
        pieces = differences(utterance.reference, hypothesis, utterance.tgt_lang)
        written.append(Written(entry.system, pieces, own.in_words(row)))
    return Card(utterance, readable(utterance.reference), separator, written, reasons)


def is_spaced(language: str) -> bool:
    """Whether its words are separated by spaces."""
    return bleu_tokenizer(language) == "13a" or base_language(language) == "ko"


def units(text: str, language: str) -> List[str]:
    """Words, or characters of languages written without spaces."""
    return text.split() if is_spaced(language) else list(text)


def _edits(utterance: Utterance) -> int:
    pair = (units(one, utterance.tgt_lang) for one in (utterance.reference, utterance.hypothesis))
    return Levenshtein.distance(*pair)


def differences(reference: str, hypothesis: str, language: str) -> List[Piece]:
    """A hypothesis in pieces: what is equal, replaced, inserted, and what of the reference is missing."""
    separator = " " if is_spaced(language) else ""
    before, after = units(reference, language), units(hypothesis, language)
    pieces = []
    for one in Levenshtein.opcodes(before, after):
        source = readable(separator.join(before[one.src_start : one.src_end]))
        target = readable(separator.join(after[one.dest_start : one.dest_end]))
        pieces.append(Piece(one.tag, source) if one.tag == "delete" else Piece(one.tag, target, source))
    return pieces
