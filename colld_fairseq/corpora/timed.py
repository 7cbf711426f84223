"""Times of an utterance in its audio, as tables give them."""

from typing import Any, Optional, Tuple, Union

from colld_fairseq.corpora.reading import seconds
from colld_fairseq.corpora.utterance import LeftOut

Span = Tuple[float, Optional[float]]


def span(name: str, start: Any = None, length: Any = None, end: Any = None) -> Union[Span, LeftOut]:
    """(start, seconds) of what a table says, in seconds; what is missing or empty is open: from the beginning, to the
    end. `LeftOut` where something is no time, or nothing would be left."""
    values = {"start": start, "length": length, "end": end}
    given = {use: value for use, value in values.items() if value not in (None, "")}
    times = {use: seconds(value) for use, value in given.items()}
    wrong = next((use for use in times if times[use] is None), None)
    if wrong:
        return LeftOut(name, "malformed row", f"its {wrong} is {given[wrong]!r}, which is no time in seconds")
    begin, duration = times.get("start", 0.0), times.get("length")
    if duration is None and "end" in times:
        duration = times["end"] - begin
    if duration is not None and duration <= 0:
        return LeftOut(name, "segment outside its file", f"it lasts {duration:g} s")
    return begin, duration
