"""Which student layer learns from which teacher layers."""

from dataclasses import dataclass, replace
from typing import List, Mapping, Sequence, Tuple

from colld_fairseq.checkpoints.encoder import every_kth
from colld_fairseq.errors import ConfigError
from colld_fairseq.named_values import value_of_each

OUTPUT = "out"
HELP = (
    "which student layer predicts which teacher layer: 'dense' (every student layer, student k <- teacher"
    " round(k*L_T/L_S)), 'sparse:K' (K pairs floor(k*L_S/K) <- floor(k*L_T/K)), or a list 'S:T,S:T'; 'S:A-B'"
    " takes the average of teacher layers A to B. Layer 0 = input of the first block, k = output of block k, out ="
    " what leaves the encoder, after its final norm (teachers: Whisper and students of this project)."
    " Several teachers: one map for all, or NAME=MAP,NAME=MAP"
)


@dataclass(frozen=True)
class LayerPair:
    """A student layer predicts the mean of some layers (usually one) of the teacher with the name `teacher`."""

    student_layer: int
    teacher_layers: Tuple[int, ...]
    teacher: str = ""

    def __str__(self) -> str:
        return f"{self.student_layer}<-{'+'.join(map(str, self.teacher_layers))}"


def parse_layer_maps(text: str, student_layers: int, depths: Mapping[str, int]) -> List[LayerPair]:
    """The pairs of all teachers, one teacher after another. depths: teacher name -> number of its layers.

    Raises ConfigError as `parse_layer_map`, or when a map is missing or is of no teacher.
    """
    maps = value_of_each(text, list(depths), "--layer-map")
    return [
        replace(pair, teacher=name)
        for name, depth in depths.items()
        for pair in parse_layer_map(maps[name], student_layers, depth)
    ]


def parse_layer_map(text: str, student_layers: int, teacher_layers: int) -> List[LayerPair]:
    """Parse a layer map (see HELP). "sparse" is USAD's rule (2506.18843), "dense" our reading of CoLLD's.

    Raises ConfigError for a map that cannot be parsed or names a layer that does not exist.
    """
    if text == "dense":
        layers = every_kth(student_layers, teacher_layers)
        pairs = [LayerPair(k, (layer,)) for k, layer in enumerate(layers, start=1)]
    elif text.startswith("sparse:"):
        count = as_integer(text, text[len("sparse:") :])
        if not 1 <= count <= min(student_layers, teacher_layers):
            raise ConfigError(
                f"layer map {text!r}: the number of pairs must be 1 to {min(student_layers, teacher_layers)} "
                f"(student {student_layers} layers, teacher {teacher_layers})"
            )
        pairs = [LayerPair(k * student_layers // count, (k * teacher_layers // count,)) for k in range(1, count + 1)]
    else:
        pairs = [parse_pair(text, part, student_layers, teacher_layers) for part in text.split(",")]
    return pairs


def averaged_widths(pairs: Sequence[LayerPair], widths: Sequence[int], teachers: int) -> List[int]:
    """Widths of the heads where each predicts the mean of all teachers: one for each pair of the first teacher.

    pairs and widths are of `teachers` teachers, one after another. Raises ConfigError unless the teachers' features
    have the same width and their maps the same student layers.
    """
    if len(set(widths)) > 1:
        given = ", ".join(dict.fromkeys(f"{pair.teacher} {width}" for pair, width in zip(pairs, widths)))
        raise ConfigError(f"--teacher-combination average needs features of one width, not {given}; take sum or random")
    names = list(dict.fromkeys(pair.teacher for pair in pairs))
    students = {name: [pair.student_layer for pair in pairs if pair.teacher == name] for name in names}
    if len({tuple(layers) for layers in students.values()}) > 1:
        raise ConfigError(f"--teacher-combination average: the layer maps name different student layers: {students}")
    return list(widths[: len(widths) // teachers])


def parse_pair(text: str, part: str, student_layers: int, teacher_layers: int) -> LayerPair:
    student, colon, teachers = part.partition(":")
    if not colon:
        raise ConfigError(f"layer map {text!r}: {part!r} is not STUDENT:TEACHER; {HELP}")
    first, dash, last = teachers.partition("-")
    low = as_layer(text, first, "teacher", teacher_layers)
    high = as_layer(text, last, "teacher", teacher_layers) if dash else low
    if high < low:
        raise ConfigError(f"layer map {text!r}: the range {teachers!r} is empty")
    return LayerPair(as_layer(text, student, "student", student_layers), tuple(range(low, high + 1)))


def as_layer(text: str, part: str, who: str, count: int) -> int:
    """Number of the layer that `part` of the map `text` names; the output's is one more than the last block's."""
    if part == OUTPUT:
        return count + 1
    layer = as_integer(text, part)
    if not 0 <= layer <= count:
        raise ConfigError(f"layer map {text!r}: the {who} has layers 0 to {count}, there is no layer {layer}")
    return layer


def as_integer(text: str, part: str) -> int:
    try:
        return int(part)
    except ValueError:
        raise ConfigError(f"layer map {text!r}: {part!r} is not a layer number; {HELP}") from None
