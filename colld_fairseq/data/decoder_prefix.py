"""The tokens that a pretrained decoder is given before it writes: start, language and task.

    Whisper               <|startoftranscript|> <|xx|> <|transcribe|> or <|translate|> <|notimestamps|>
    Whisper, English only <|startoftranscript|> <|notimestamps|>
    M2M-100               </s> __xx__
    NLLB                  </s> xxx_Yyyy
    mBART-50              </s> xx_XX

They are given to the decoder as they are, whatever a tokenizer would put around a text: tokenizers of NLLB wrote the
language behind the text once, and before it now.
"""

import re
from dataclasses import dataclass, field
from typing import Any, List, Mapping, Optional

from colld_fairseq.checkpoints import whisper_tokens
from colld_fairseq.checkpoints.whisper_tokens import is_multilingual, required_token
from colld_fairseq.errors import ConfigError

ENGLISH = "en"
# How families write languages as tokens, by the model_type of config.json.
LANGUAGE_TOKENS = {
    "whisper": whisper_tokens.LANGUAGE,
    "m2m_100": r"__([a-z]{2,3})__|([a-z]{3}_[A-Z][a-z]{3})",
    "mbart": r"([a-z]{2,3}_[A-Z]{2})",
}


@dataclass(frozen=True)
class LanguagePrefix:
    """Start and target language: M2M-100, NLLB and mBART-50."""

    start: int
    languages: Mapping[str, int]
    """Code as the family writes it -> token id."""

    size = 2

    def is_timestamp(self, token: int) -> bool:
        return False

    def __call__(self, source: str, target: str) -> List[int]:
        return [self.start, self.languages[match_language(target, self.languages)]]


@dataclass(frozen=True)
class WhisperPrefix:
    """What is spoken, and whether it is transcribed or translated into English."""

    start: int
    tail: int
    """<|notimestamps|>"""
    languages: Mapping[str, int] = field(default_factory=dict)
    """Empty for English-only models."""
    tasks: Mapping[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return 4 if self.languages else 2

    def is_timestamp(self, token: int) -> bool:
        """All tokens behind <|notimestamps|> are."""
        return token > self.tail

    def __call__(self, source: str, target: str) -> List[int]:
        source = source or target
        if not self.languages:
            if {_primary(source), _primary(target)} != {ENGLISH}:
                raise ConfigError(f"from {source!r} into {target!r}: this Whisper knows English only")
            return [self.start, self.tail]
        spoken = match_language(source, self.languages)
        if target == source or _primary(target) == _primary(source):
            task = "transcribe"
        elif _primary(target) == ENGLISH:
            task = "translate"
        else:
            raise ConfigError(f"from {source!r} into {target!r}: Whisper translates into English only")
        return [self.start, self.languages[spoken], self.tasks[task], self.tail]


def prefix_of(family: str, tokens: Mapping[str, int], config: Mapping[str, Any], generation: Mapping[str, Any]):
    """The prefix of a family ("whisper", "m2m_100", "mbart") by its tokens, config.json and generation_config.json.

    Raises ConfigError where the tokenizer is none of the family.
    """
    pattern = re.compile(LANGUAGE_TOKENS[family])
    matches = {index: pattern.fullmatch(token) for token, index in tokens.items()}
    languages = {next(filter(None, match.groups())): index for index, match in matches.items() if match}
    if family == "whisper":
        start, tail, *tasks = (
            required_token(tokens, name) for name in ("startoftranscript", "notimestamps", "transcribe", "translate")
        )
        if not is_multilingual(config, generation):
            return WhisperPrefix(start, tail)
        return WhisperPrefix(start, tail, languages, dict(zip(("transcribe", "translate"), tasks)))
    start = generation.get("decoder_start_token_id") or config.get("decoder_start_token_id")
    if start is None or start != config.get("eos_token_id", start) or not languages:
        raise ConfigError(
            f"its decoder does not begin with </s> and a language ({len(languages)} languages in the tokenizer): take"
            " M2M-100, NLLB or mBART-50"
        )
    return LanguagePrefix(start, languages)


def match_language(language: str, known: Mapping[str, Any]) -> str:
    """The code in `known` of a language as manifests have it: "en" is en_XX, "pt-BR" is pt, "eng" is eng_Latn.

    Raises ConfigError for one that is not there, or could be several (zho is written zho_Hans and zho_Hant).
    """
    written = language.replace("-", "_")
    for code in (language, written, _primary(language)):
        if code in known:
            return code
    alike = sorted(code for code in known if _primary(code) == _primary(language))
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise ConfigError(f"language {language!r} could be {' or '.join(alike)}: write the one that is meant")
    some = ", ".join(sorted(known)[:4])
    raise ConfigError(f"language {language!r} is none of the {len(known)} of the pretrained decoder ({some}, ...)")


def _primary(language: Optional[str]) -> str:
    return re.split("[-_]", language or "")[0].lower()
