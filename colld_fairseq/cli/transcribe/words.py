"""What `colld transcribe --words` writes beside the manifest: words with their times, in the formats of other tools."""

import json
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

from colld_fairseq.decoding.hypothesis import Hypothesis, Word
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import write_atomically

# Subtitles: a new one after so much silence, or where it would become longer than this.
PAUSE_SECONDS, CUE_SECONDS, CUE_LETTERS = 0.8, 6.0, 84


class Timed(NamedTuple):
    """An utterance as it was transcribed: seconds of its audio, the best hypothesis."""

    id: str
    seconds: float
    hypothesis: Hypothesis


def cues(words: Sequence[Word]) -> List[List[Word]]:
    """The words as subtitles."""
    result: List[List[Word]] = []
    for word in words:
        cue = result[-1] if result else []
        if (
            not cue
            or word.start - cue[-1].end > PAUSE_SECONDS
            or word.end - cue[0].start > CUE_SECONDS
            or len(text_of([*cue, word])) > CUE_LETTERS
        ):
            result.append([word])
        else:
            cue.append(word)
    return result


def text_of(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)


def clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def srt(one: Timed) -> str:
    """SubRip."""
    blocks = (
        f"{index}\n{clock(cue[0].start, ',')} --> {clock(cue[-1].end, ',')}\n{text_of(cue)}\n"
        for index, cue in enumerate(cues(one.hypothesis.words), start=1)
    )
    return "\n".join(blocks)


def vtt(one: Timed) -> str:
    """WebVTT; & < > are written as its entities."""
    blocks = ["WEBVTT\n"]
    for cue in cues(one.hypothesis.words):
        text = text_of(cue).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{clock(cue[0].start, '.')} --> {clock(cue[-1].end, '.')}\n{text}\n")
    return "\n".join(blocks)


def as_json(one: Timed) -> str:
    words = [vars(word) for word in one.hypothesis.words]
    language = {"language": one.hypothesis.language} if one.hypothesis.language else {}
    content = {"id": one.id, "seconds": round(one.seconds, 3), **language, "text": one.hypothesis.text, "words": words}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def ctm(one: Timed) -> str:
    """NIST's: id, channel, beginning, duration, word, confidence."""
    name = "_".join(one.id.split())
    lines = (f"{name} 1 {w.start:.3f} {w.end - w.start:.3f} {w.text} {w.confidence:.4f}" for w in one.hypothesis.words)
    return "".join(f"{line}\n" for line in lines)


def text_grid(one: Timed) -> str:
    """Praat's, one tier of words with the silence between them."""
    intervals = list(filled(one.hypothesis.words, round(one.seconds, 3)))
    end = intervals[-1].end if intervals else 0.0
    lines = [
        *('File type = "ooTextFile"', 'Object class = "TextGrid"', ""),
        *("xmin = 0", f"xmax = {end:.3f}", "tiers? <exists>", "size = 1", "item []:", "    item [1]:"),
        *('        class = "IntervalTier"', '        name = "words"', "        xmin = 0", f"        xmax = {end:.3f}"),
        f"        intervals: size = {len(intervals)}",
    ]
    for index, (start, stop, text) in enumerate(intervals, start=1):
        escaped = text.replace('"', '""')
        lines += [f"        intervals [{index}]:", f"            xmin = {start:.3f}", f"            xmax = {stop:.3f}"]
        lines.append(f'            text = "{escaped}"')
    return "\n".join(lines) + "\n"


class Interval(NamedTuple):
    start: float
    end: float
    text: str


def filled(words: Sequence[Word], end: float) -> Iterator[Interval]:
    """Intervals from 0 to `end`, or to that of the last word, without a gap, none of them empty of time. Times, as
    those of words, are of whole milliseconds."""
    now = 0.0
    for index, word in enumerate(words):
        follows = words[index + 1].start if index + 1 < len(words) else end
        stop = min(max(word.end, word.start + 0.001), max(follows, word.start + 0.001))
        if word.start > now:
            yield Interval(now, word.start, "")
        start, now = max(now, word.start), round(max(stop, now + 0.001), 3)
        yield Interval(start, now, word.text)
    if end > now:
        yield Interval(now, end, "")


FORMATS: Dict[str, Callable[[Timed], str]] = {
    "srt": srt,
    "vtt": vtt,
    "json": as_json,
    "ctm": ctm,
    "TextGrid": text_grid,
}


def parse_formats(text: str) -> List[str]:
    """Of `srt,ctm`. Raises ConfigError."""
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown:
        raise ConfigError(f"--words {unknown[0]!r}: the formats are {', '.join(FORMATS)}")
    return chosen


def words_folder(out: str) -> Path:
    """Where the files beside the manifest `out` are."""
    return Path(out).with_suffix(".words")


def write_words(out: str, formats: Sequence[str], utterances: Iterable[Timed]) -> Tuple[Path, int]:
    """One file per utterance and format, `ID.srt`, below a folder: the folder, and how many files of these formats it
    had before that are of other utterances, and stay."""
    folder = words_folder(out)
    former = {path for name in formats for path in folder.rglob(f"*.{name}")}
    for one in utterances:
        for name in formats:
            path = folder / f"{below(one.id)}.{name}"
            write_atomically(path, FORMATS[name](one).encode())
            former.discard(path)
    return folder, len(former)


def below(utterance_id: str) -> Path:
    """The id as a path below a folder: it is one where files were named. `..` becomes `_up`: `../a.wav` and `a.wav` are
    two."""
    parts = [part for part in Path(utterance_id).parts if part not in ("/", "\\")]
    return Path(*["_up" if part == ".." else part for part in parts])
