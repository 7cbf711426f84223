"""generation_config.json of a Whisper, with all that today's clients look for.

Directories made before transformers 4.31, or out of weights alone, lack most of it: `language` and `task` are then
refused, transcripts end after 20 tokens, or are written without a task. What a directory says is kept; the rest follows
from its tokenizer.
"""

from typing import Any, Dict, Mapping

from colld_fairseq.checkpoints.whisper_tokens import WhisperTokens
from colld_fairseq.errors import ConfigError

FIRST_TIMESTAMP = 50  # no transcript begins later than 1 s into the window, in steps of 20 ms (OpenAI's default)
# Fields of older config.json files. Not forced_decoder_ids: all of OpenAI's had English there, whatever the model.
_OLDER = ("suppress_tokens", "begin_suppress_tokens", "pad_token_id", "bos_token_id", "eos_token_id")
_OLDER += ("decoder_start_token_id",)
# What transformers notes for itself: that it derived the file from config.json, and would do so again.
_NOTES = ("_from_model_config", "transformers_version")


def complete_generation(said: Mapping[str, Any], settings: Mapping[str, Any], tokens: WhisperTokens) -> Dict[str, Any]:
    """The fields of generation_config.json.

    Args:
        said: the file as it is, {} where there is none.
        settings: config.json of the same model.

    Raises ConfigError, with both values, where they contradict the tokenizer.
    """
    fields = {name: settings[name] for name in _OLDER if settings.get(name) is not None}
    fields.update((name, value) for name, value in said.items() if value is not None and name not in _NOTES)
    forced = {token for _, token in fields.pop("forced_decoder_ids", [])}
    fixed = _fixed(tokens)
    _check(fields, fixed)
    defaults = {
        "bos_token_id": tokens.end,
        "pad_token_id": tokens.end,
        "max_length": settings.get("max_target_positions", 448),
        "max_initial_timestamp_index": FIRST_TIMESTAMP,
        "return_timestamps": False,
        "suppress_tokens": tokens.never_written,
        "begin_suppress_tokens": tokens.never_first,
    }
    if tokens.previous is not None:
        defaults["prev_sot_token_id"] = tokens.previous
    if tokens.languages:
        defaults["task"] = next((task for task, token in tokens.tasks.items() if token in forced), "transcribe")
        language = next((name for name, token in tokens.languages.items() if token in forced), None)
        defaults.update({"language": language} if language else {})
    else:  # with any of these transformers would put a language into the prompt, or ask for one
        for name in ("lang_to_id", "task_to_id", "language", "task"):
            fields.pop(name, None)
    return dict(sorted({**defaults, **fixed, **fields}.items()))


def _fixed(tokens: WhisperTokens) -> Dict[str, Any]:
    """Fields that have one right value."""
    fixed: Dict[str, Any] = {
        "decoder_start_token_id": tokens.start,
        "eos_token_id": tokens.end,
        "no_timestamps_token_id": tokens.no_timestamps,
        "is_multilingual": bool(tokens.languages),
    }
    if tokens.languages:
        fixed.update(lang_to_id=tokens.languages, task_to_id=tokens.tasks)
    return fixed


def _check(fields: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    for name, right in fixed.items():
        given = fields.get(name, right)
        pairs = [(name, given, right)]
        if isinstance(right, dict):  # a directory may leave out languages, and not move them
            pairs = [(f"{name}[{key!r}]", value, right.get(key)) for key, value in given.items()]
        wrong = next((pair for pair in pairs if pair[1] != pair[2]), None)
        if wrong:
            raise ConfigError(
                f"generation_config.json or config.json says {wrong[0]} {wrong[1]}, the tokenizer {wrong[2]}: take the"
                " files that belong together"
            )
