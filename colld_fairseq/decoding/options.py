"""Which options of decoding say something to which kind of decoder."""

from typing import Any, Dict, Iterable, List, Mapping

from colld_fairseq.errors import ConfigError
from colld_fairseq.numbers import COUNT, COUNT_OR_NONE, FINITE, NOT_NEGATIVE, POSITIVE

#: Those of fairseq's generator, which attention decoders are decoded by, and their kinds of numbers.
GENERATION = {
    "max_len_a": NOT_NEGATIVE,
    "max_len_b": COUNT_OR_NONE,
    "min_len": COUNT,
    "lenpen": FINITE,
    "unkpen": FINITE,
    "temperature": POSITIVE,
    "no_repeat_ngram_size": COUNT_OR_NONE,
}
#: Those of the task for the searches over frames, CTC's and transducers', and for transducers alone.
TRANSDUCER = ("blank_penalty", "max_symbols")
FRAMES = ("ngram_lm", "ngram_lm_unit", "ngram_lm_weight", "length_bonus", "hotwords", "hotword_bonus", *TRANSDUCER)


def generation_options(given: Mapping[str, Any]) -> Dict[str, float]:
    """The values of GENERATION, which may be strings. Raises ConfigError for what is no number of their kind."""
    return {name: GENERATION[name].read(str(value), name) for name, value in given.items()}


def refuse_impossible(args: Any) -> None:
    """ConfigError for options of fairseq-generate that no decoder here has."""
    if getattr(args, "score_reference", False):
        raise ConfigError("--score-reference: references are not scored by the models here; leave it out")
    if getattr(args, "match_source_len", False):
        raise ConfigError("--match-source-len: a text has not as many tokens as speech has frames; leave it out")
    if getattr(args, "print_alignment", None):
        raise ConfigError(
            "--print-alignment: no decoder here aligns tokens with frames in that way; leave it out (`colld transcribe"
            " --words` gives the times of words)"
        )


def refuse_unused(given: Iterable[str], kind: str) -> None:
    """ConfigError for an option that a decoder of this kind (`ctc`, `attention`, `transducer`) would not look at."""
    unused: Dict[str, List[str]] = {
        "attention": [*FRAMES],
        "ctc": [*GENERATION, *TRANSDUCER],
        "transducer": [*GENERATION],
    }
    for name in given:
        if name in unused[kind]:
            takes = "attention" if name in GENERATION else "transducer" if name in TRANSDUCER else "CTC or transducer"
            other = " or choose --decoder ctc, where there is a CTC layer" if kind == "attention" else ""
            raise ConfigError(
                f"--{name.replace('_', '-')} is an option of {takes} decoding, and what decodes here is {kind}: leave"
                f" it out{other}"
            )
