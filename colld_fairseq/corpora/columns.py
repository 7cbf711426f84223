"""Which column of a table is what: by the names that are usual, in whatever case, or as --columns says."""

from typing import Dict, Mapping, Sequence

from colld_fairseq.errors import ConfigError

#: What a column is for -> the names it goes by.
USUAL: Dict[str, Sequence[str]] = {
    "audio": (
        *("audio", "audio_filepath", "audio_file", "audio_path", "file_name", "filename"),
        *("file", "path", "file_path", "filepath", "wav", "wav_path"),
    ),
    "text": ("text", "sentence", "transcript", "transcription", "transcript_text", "src_text"),
    "id": ("id", "utt_id", "utterance_id", "segment_id"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk_id"),
    "language": ("language", "lang", "locale", "src_lang", "source_lang"),
    "split": ("split", "subset"),
    "start": ("start", "offset", "start_time"),
    "seconds": ("seconds", "duration"),
    "end": ("end", "end_time"),
}
TRANSLATION = "translation_"  # translation_de: into German
_TRANSLATIONS = (TRANSLATION, "trans_", "tgt_text_")


def resolve(names: Sequence[str], given: Mapping[str, str], where: str) -> Dict[str, str]:
    """{what a column is for: its name} of a table with columns of these names; translations as `translation_XX`.

    given: what --columns says. Raises ConfigError naming `where`: a given column that is not there, a use that does not
    exist, two columns that could both be the same, none with audio.
    """
    uses = {TRANSLATION + name[len(p) :]: name for name in names for p in _TRANSLATIONS if name.lower().startswith(p)}
    for use, name in given.items():
        if use not in USUAL and not use.startswith(TRANSLATION):
            raise ConfigError(
                f"--columns {use}={name}: there is no {use!r}; there are {', '.join(USUAL)}, translation_XX"
            )
        if name not in names:
            raise ConfigError(
                f"{where}: no column {name!r}, as --columns {use}={name} says; there are {', '.join(names)}"
            )
        uses[use] = name
    for use, usual in USUAL.items():
        fitting = [name for name in names if name.lower() in usual and name not in given.values()]
        if use not in uses and len(fitting) > 1:
            raise ConfigError(f"{where}: {' and '.join(fitting)} could both be the {use}; say --columns {use}=NAME")
        if use not in uses and fitting:
            uses[use] = fitting[0]
    if "audio" not in uses:
        raise ConfigError(
            f"{where}: no column with audio among {', '.join(names)}; say which one it is by --columns audio=NAME"
        )
    return uses


def check_uses(given: Mapping[str, str], uses: Sequence[str], layout: str) -> None:
    """ConfigError for a use in --columns, besides translation_XX, that a layout does not have."""
    for use, name in given.items():
        if use not in uses and not use.startswith(TRANSLATION):
            there = ", ".join([*uses, TRANSLATION + "XX"])
            raise ConfigError(f"--columns {use}={name}: of {layout} there is no {use!r} to name, only {there}")


def translations_of(values: Mapping[str, str]) -> Dict[str, str]:
    """{language: translation} of the uses `translation_XX` that have a value."""
    return {use[len(TRANSLATION) :]: text for use, text in values.items() if use.startswith(TRANSLATION) and text}
