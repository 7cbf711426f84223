"""The files that audio is in, and whether they have changed."""

import os
from typing import List, Optional

from colld_fairseq.data.audio import split_segment_spec, split_zip_spec


def file_of(audio: str) -> str:
    """The file of what `read_audio` takes: a file, a member of an archive, a segment."""
    inside = split_zip_spec(audio) or split_segment_spec(audio)
    return inside[0] if inside else audio


def state_of(path: str) -> Optional[List[int]]:
    """Size and time of the last change of a file, None where there is none."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return None
    return [state.st_size, state.st_mtime_ns]
