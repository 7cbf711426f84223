"""Transcripts in files beside an audio-only manifest, a line for each row, as fairseq's audio_finetuning has them.

NAME.ltr holds letters with spaces between them and "|" behind every word, NAME.wrd words; both say the same, and the
former comes first, as it is what models there are trained on.
"""

import os
from typing import Optional

import pyarrow as pa

from colld_fairseq.data.text_files import text_lines
from colld_fairseq.errors import ManifestError

LETTERS, WORDS = ".ltr", ".wrd"


def read_labels(manifest: str, rows: int) -> Optional[pa.Array]:
    """The transcripts of all rows of a manifest file, or None where there are none.

    Raises ManifestError for another number of lines, ColldError for what is no UTF-8.
    """
    for suffix in (LETTERS, WORDS):
        path = os.path.splitext(manifest)[0] + suffix
        if os.path.isfile(path):
            lines = text_lines(path)
            transcripts = pa.array(map(text_of_letters, lines) if suffix == LETTERS else lines, pa.string())
            if len(transcripts) != rows:
                raise ManifestError(
                    f"{path}: {len(transcripts)} lines, but {manifest} has {rows} rows; write one for each row"
                )
            return transcripts
    return None


def text_of_letters(line: str) -> str:
    """ "H I | Y O U |" as "HI YOU"."""
    return line.replace(" ", "").replace("|", " ").strip()
