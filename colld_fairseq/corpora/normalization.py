"""Transcripts and translations as they stand in a manifest, normalized for their language.

NFC, single spaces and no invisible controls, always; with options as `colld vocab` has them, lower case and no
punctuation. What depends on the language: Turkish and Azerbaijani have two letters i, with a dot and without, which
Unicode's lower-casing of other languages confuses.
"""

from colld_fairseq.data.text import TextNormalizer

_DOTTED = {"tr", "az", "tur", "aze"}
_CAPITALS = str.maketrans({"I": "ı", "İ": "i"})
_CONTROLS = {code: "" for code in (*range(0x20), 0x7F) if not chr(code).isspace()}
# U+0080 to U+009F are no letters of anything: a quotation mark or ellipsis of Windows-1252 that was read as Latin-1.
_CONTROLS.update({code: bytes([code]).decode("cp1252", errors="ignore") for code in range(0x80, 0xA0)})


def normalized(text: str, language: str, normalizer: TextNormalizer) -> str:
    """The text of a language (ISO 639, perhaps with a region)."""
    text = text.translate(_CONTROLS)
    if normalizer.lowercase and language.replace("_", "-").split("-")[0].lower() in _DOTTED:
        text = text.replace("I\u0307", "İ").translate(_CAPITALS)
    return normalizer(text)
