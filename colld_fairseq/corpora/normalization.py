"""Transcripts and translations as they stand in a manifest: NFC, single spaces and no invisible controls, always; with
options as `colld vocab` has them, lower case and no punctuation."""

from colld_fairseq.data.text import TextNormalizer


def _of_windows_1252(code: int) -> str:
    return bytes([code]).decode("cp1252", errors="ignore")


# U+0080 to U+009F are no letters of anything: a quotation mark or ellipsis of Windows-1252 that was read as Latin-1.
_WINDOWS_1252 = {code: _of_windows_1252(code) for code in range(0x80, 0xA0)}
_CONTROLS = {code: None for code in (*range(0x20), 0x7F) if not chr(code).isspace()}


def normalized(text: str, language: str, normalizer: TextNormalizer) -> str:
    """The text of a language (ISO 639, perhaps with a region)."""
    return normalizer(text.translate({**_WINDOWS_1252, **_CONTROLS}), language)
