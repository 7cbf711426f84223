"""The special tokens of a Whisper, asked for by name: their ids differ between its models.

English-only models have the same names under ids that are lower by one, languages and tasks included, and large-v3 has
one language more. So no id is written down here, and a tokenizer that does not belong to a model is noticed.
"""

import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional

from colld_fairseq.errors import ConfigError

ENGLISH_ONLY_SIZE = 51864  # tokens of OpenAI's English models; its multilingual ones have at least one more
LANGUAGE = r"<\|([a-z]{2,3})\|>"
# What no transcript has: signs of speakers, of sounds and of music (OpenAI's whisper/tokenizer.py, non_speech_tokens).
_SIGNS = [
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *"<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪".split(),
]
_NOTES = "♩♪♫♬♭♮♯"  # may be several tokens each, the first of which they share with nothing but other signs
_BETWEEN_WORDS = (" -", " '")  # allowed there, and not before a word
_STEERING = ("startoftranscript", "translate", "transcribe", "startoflm", "startofprev", "nospeech", "nocaptions")


@dataclass(frozen=True)
class WhisperTokens:
    """Ids of one model."""

    start: int
    end: int
    no_timestamps: int
    previous: Optional[int]
    """Before the text of the window before, where the tokenizer has such a token."""
    languages: Dict[str, int]
    """"<|en|>" -> id; empty for English-only models, and so are the tasks."""
    tasks: Dict[str, int]
    """"transcribe" and "translate"."""
    never_written: List[int]
    never_first: List[int]
    """A space, and the end."""


def read_tokens(tokenizer: Any, multilingual: bool) -> WhisperTokens:
    """The tokens by transformers' tokenizer of the model.

    Raises ConfigError where it is none of Whisper's.
    """
    ids = tokenizer.get_vocab()
    end = required_token(ids, "endoftext")
    languages, tasks = {}, {}
    if multilingual:
        languages = {token: index for token, index in ids.items() if re.fullmatch(LANGUAGE, token)}
        tasks = {task: required_token(ids, task) for task in ("transcribe", "translate")}
        if not languages:
            raise ConfigError("its tokenizer has no language (<|en|>, ...): take the files of a complete Whisper")
    return WhisperTokens(
        start=required_token(ids, "startoftranscript"),
        end=end,
        no_timestamps=required_token(ids, "notimestamps"),
        previous=ids.get("<|startofprev|>"),
        languages=dict(sorted(languages.items(), key=lambda pair: pair[1])),
        tasks=tasks,
        never_written=sorted({*_signs(tokenizer), *(ids[f"<|{x}|>"] for x in _STEERING if f"<|{x}|>" in ids)}),
        never_first=[*_encode(tokenizer, " "), end],
    )


def is_multilingual(settings: Mapping[str, Any], generation: Mapping[str, Any]) -> bool:
    """Whether a Whisper is told language and task, by its config.json and generation_config.json.

    Its tokens do not tell, as English-only models have all of them. Older directories do not say it, and OpenAI's own
    rule is the size of the vocabulary.
    """
    if "is_multilingual" in generation:
        return bool(generation["is_multilingual"])
    return bool(generation.get("lang_to_id")) or settings.get("vocab_size") != ENGLISH_ONLY_SIZE


def _signs(tokenizer: Any) -> List[int]:
    tokens = [_encode(tokenizer, text)[0] for text in _BETWEEN_WORDS]
    for sign in [*_SIGNS, *_NOTES]:
        for written in (_encode(tokenizer, sign), _encode(tokenizer, f" {sign}")):
            if len(written) == 1 or sign in _NOTES:
                tokens.append(written[0])
    return tokens


def _encode(tokenizer: Any, text: str) -> List[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def required_token(ids: Mapping[str, int], name: str) -> int:
    """Id of <|name|>; ConfigError where a tokenizer does not have it."""
    token = f"<|{name}|>"
    if token not in ids:  # asked for by name: a tokenizer would give the end of text for a token that it lacks
        raise ConfigError(f"its tokenizer has no {token}: take the files of a complete Whisper")
    return ids[token]
