"""Latency of a trained student, chosen when it runs: milliseconds of audio as chunks of frames, compared with the
training's.

The wait for a frame is the rest of its chunk, half a chunk on average, and all of the right context.
"""

from typing import List, Sequence, Tuple, Union

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.chunks import Chunk, Count, parse_count, widest
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.modules.encoder_config import EncoderConfig

WHOLE = "full"  # chunk: the whole utterance; left context: all there is
TRAINED = "trained"  # left context: as in training


def frames_of(student: StudentEncoder, chunk_ms: Union[int, str], options: str = "--") -> Count:
    """Encoder frames of a chunk of so many milliseconds; None for "full". ConfigError if they are no whole number.

    options: how the names of the options begin that this and the other functions here have to name.
    """
    count = parse_count(str(chunk_ms), f"{options}chunk-ms")
    return None if count is None else _whole_number(student, count, f"{options}chunk-ms", 1)


def right_of(student: StudentEncoder, right_ms: int, size: Count, options: str = "--") -> int:
    """Encoder frames of right context beside chunks of `size` frames. ConfigError if they are no whole number, or the
    student can have none."""
    right = _whole_number(student, right_ms, f"{options}right-ms", 0)
    if right and (size is None or student.config.context != "chunk"):
        raise ConfigError(f"{options}right-ms {right_ms}: only with chunks of a student with --encoder-context chunk")
    return right


def _whole_number(student: StudentEncoder, milliseconds: int, option: str, least: int) -> int:
    frames = milliseconds * student.frame_rate_hz / 1000
    if frames < least or frames != int(frames):
        raise ConfigError(f"{option} {milliseconds}: a multiple of {1000 / student.frame_rate_hz:g} is needed")
    return int(frames)


def left_of(student: StudentEncoder, left_context: str = TRAINED, options: str = "--") -> Count:
    """Chunks ("causal" students: frames) of left context, None: all. left_context: a count, "full", or "trained": the
    longest of the training that has a limit."""
    if left_context == TRAINED:
        return max(_limited(student.config.left_contexts), default=None)
    return parse_count(left_context, f"{options}left-context")


def set_latency(
    student: StudentEncoder,
    chunk_ms: Union[int, str],
    left_context: str = TRAINED,
    right_ms: int = 0,
    options: str = "--",
) -> List[str]:
    """Give frames no more context in evaluation than in a stream of such chunks; what the training has against it.

    ConfigError: a student of whole utterances, or no whole number of frames.
    """
    size, left = frames_of(student, chunk_ms, options), left_of(student, left_context, options)
    right = right_of(student, right_ms, size, options)
    if student.config.context == "causal":
        size = None  # its own
    student.set_chunk(size, left, right)
    return doubts(student.config, student.chunk, student.frame_rate_hz, right)


def doubts(config: EncoderConfig, chunk: Chunk, frame_rate_hz: float, right: int = 0) -> List[str]:
    """In words, in what a context is none of those that a student was trained with; empty where nothing is to be said.

    Between the shortest and the longest chunk of the training any size will do: that is what drawing them is for. With
    a right context, frames have what they would have in a chunk longer by that.
    """
    if config.context == "full":
        return []
    size = None if chunk.size is None else chunk.size + right
    remarks = [] if config.context == "causal" else _of_chunks(config, size, frame_rate_hz)
    if chunk.size is not None and _outside(chunk.left_frames, *_left_range(config)):
        remarks.append(
            f"a left context of {_length(chunk.left_frames, frame_rate_hz)}, but the student was trained with"
            f" {_range(*_left_range(config), frame_rate_hz)}"
        )
    return remarks


def _of_chunks(config: EncoderConfig, size: Count, frame_rate_hz: float) -> List[str]:
    limited = _limited(config.chunk_sizes)
    shortest, longest = min(limited, default=None), widest(config.chunk_sizes)
    if not _outside(size, shortest, longest):
        return []
    return [
        f"chunks of {_length(size, frame_rate_hz)}, but the student was trained with"
        f" {_range(shortest, longest, frame_rate_hz)}: expect more errors than from one with such --chunk-sizes"
    ]


def _left_range(config: EncoderConfig) -> Tuple[Count, Count]:
    """The fewest and most frames before its chunk that a frame took in while training; None: all of them."""
    sizes = [1] if config.context == "causal" else config.chunk_sizes
    limited = _limited(config.left_contexts)
    fewest = min(limited) * min(_limited(sizes)) if limited and _limited(sizes) else None
    return fewest, None if None in (*config.left_contexts, *sizes) else max(limited) * max(sizes)


def _limited(counts: Sequence[Count]) -> List[int]:
    return [count for count in counts if count is not None]


def _outside(count: Count, least: Count, most: Count) -> bool:
    """Whether a count, None for no limit, is less than `least` or more than `most`."""
    if count is None:
        return most is not None
    return least is None or count < least or (most is not None and count > most)


def _length(frames: Count, frame_rate_hz: float) -> str:
    return "the whole utterance" if frames is None else f"{1000 * frames / frame_rate_hz:g} ms"


def _range(least: Count, most: Count, frame_rate_hz: float) -> str:
    if least == most:
        return _length(most, frame_rate_hz)
    top = "to the whole utterance" if most is None else f"to {_length(most, frame_rate_hz)}"
    return f"{_length(least, frame_rate_hz)} {top}"
