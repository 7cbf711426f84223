"""Parts of a text put together as it is written: with a space between them, and none in scripts that have none."""

import re
from typing import Iterable

# Thai and Lao, Burmese, Khmer, the Japanese syllabaries, Chinese characters.
SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Beside such letters their punctuation, too: full stops and brackets that are as wide as a character.
_SEAM = re.compile(f"[{SPACELESS}\u3000-\u303f\uff00-\uff65]{{2}}")


def join_parts(parts: Iterable[str]) -> str:
    """The parts that are not empty; a space at each seam, unless both sides are of a script without spaces."""
    joined = ""
    for part in filter(None, parts):
        spaceless = not joined or _SEAM.fullmatch(joined[-1] + part[0])
        joined += part if spaceless else f" {part}"
    return joined
