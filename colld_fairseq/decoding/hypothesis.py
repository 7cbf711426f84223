"""What every search finds: one type from the searches to the Python API."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

from torch import nn

from colld_fairseq.data.seams import join_parts

Models = Sequence[nn.Module]  # one, or an ensemble, in eval mode


@dataclass
class Word:
    """A word of a hypothesis, from `start` to `end` in seconds since the audio began; confidence: geometric mean of its
    tokens' probabilities on the best path, 0 to 1."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass
class Hypothesis:
    """One hypothesis of an utterance. Log-probabilities are natural."""

    tokens: List[int]
    """Ids of its labels: without blanks, language tag and end of sentence."""

    score: float
    """What hypotheses are ranked by. CTC and transducers: ln p of all paths that the search kept (greedy: of its path)
    + lm_weight * lm_score + length_bonus * units; attention decoders: fairseq's score, normalized by length."""

    log_prob: float
    """ln p of the most probable path (CTC, transducer), or of the tokens and the end of sentence (attention)."""

    lm_score: float = 0.0
    """ln p by the language model, 0 without one; with hot words, weighted, and their bonuses with it."""

    frames: List[int] = field(default_factory=list)
    """Encoder frame at which each token begins on the most probable path; empty for attention decoders."""

    token_scores: List[float] = field(default_factory=list)
    """ln p of that path, cut where the tokens begin (leading blanks belong to the first one), or of each token."""

    text: str = ""
    """The text of the tokens, without unknown ones; searches leave it empty, recognisers fill it in."""

    words: List[Word] = field(default_factory=list)
    """Of the text, with their times; recognisers fill them in. Empty for attention decoders."""

    language: str = ""
    """What the decoder was told: the target language, or the added language whose parts an `adapted_ctc` used; "" where
    nothing is told."""

    @property
    def mean_log_prob(self) -> float:
        """ln p per token: a confidence that utterances of different lengths can be compared by."""
        return self.log_prob / max(1, len(self.tokens))

    def to_json(self) -> Dict[str, Any]:
        """What is kept in files."""
        more: Dict[str, Any] = {"words": [vars(word) for word in self.words]} if self.words else {}
        if self.language:
            more["language"] = self.language
        return {"text": self.text, "tokens": self.tokens, "score": self.score, "log_prob": self.log_prob, **more}

    @classmethod
    def from_json(cls, fields: Dict[str, Any]) -> "Hypothesis":
        """Raises TypeError for what `to_json` does not write."""
        return cls(**{**fields, "words": [Word(**word) for word in fields.get("words", ())]})


NBest = List[List[Hypothesis]]  # of each utterance its hypotheses, best first


def joined(parts: Sequence[List[Hypothesis]], nbest: int) -> List[Hypothesis]:
    """Parts of one recording, an n-best list each, one after the other: the best ways of taking one hypothesis of each,
    best first. Frames and scores of tokens, which are those of each part, are left out."""
    best: List[Tuple[float, Chain]] = [(0.0, None)]
    for hypotheses in parts:
        longer: List[Tuple[float, Chain]] = [
            (score + one.score, (before, one)) for score, before in best for one in hypotheses
        ]
        best = sorted(longer, key=lambda scored: -scored[0])[:nbest]
    return [_one_after_the_other(score, in_order(chain)) for score, chain in best]


Chain = Optional[Tuple["Chain", Hypothesis]]  # hypotheses of parts: the last one, behind those before it


def in_order(chain: Chain) -> List[Hypothesis]:
    result = []
    while chain is not None:
        chain, one = chain
        result.append(one)
    return result[::-1]


def _one_after_the_other(score: float, parts: List[Hypothesis]) -> Hypothesis:
    return Hypothesis(
        [token for one in parts for token in one.tokens],
        score,
        sum((one.log_prob for one in parts), 0.0),
        text=join_parts(one.text for one in parts),
        words=[word for one in parts for word in one.words],
        language=parts[0].language if parts else "",
    )
