"""Encoders of any file format, in the student encoder's own names: read, written, and a student started from one.

Weights are plain state dicts. Layer numbers in names count from 0 as the files' do; `take_layers` counts blocks from 1
as the rest of the package does.
"""

import contextlib
import importlib
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from colld_fairseq.checkpoints.files import content_hash
from colld_fairseq.checkpoints.stored_weights import StateDict, StoredWeights, Tensors, block_of, shapes_of
from colld_fairseq.errors import CheckpointError, ConfigError
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.input_config import InputConfig

Formats = Mapping[str, Tuple[str, str]]

#: Scheme of a spec -> (how it is written, module of this folder). The module has `read(name, blocks)`, `write(path,
#: checkpoint)`, `LAYOUTS` that an encoder may have in this format, `files(name)` that decide what it computes, and
#: `own_library(name, complete)` for checkpoints/verify.py.
FORMATS = {
    "hf": ("hf:DIR", "names_hf"),
    "fairseq": ("fairseq:FILE.pt", "names_fairseq"),
    "fairseq2": ("fairseq2:FILE.pt", "names_fairseq2"),
    "colld": ("colld:FILE.pt", "names_colld"),
}
#: The same of teachers; from those that are not above no student starts: their module has `files(name)` alone.
TEACHERS = {
    **FORMATS,
    "onnx": ("onnx:FILE.onnx", "onnx_graph"),
    "python": ("python:package.module:Class", "python_class"),
}


@dataclass
class EncoderCheckpoint:
    """An encoder out of a file, or to be written into one."""

    config: EncoderConfig
    """Shape and input of the whole encoder."""
    weights: Mapping[str, Tensor]
    """In our names; of the blocks that were asked for. `StoredWeights` are read when they are needed."""
    origin: str = ""
    """What it was read from, for messages."""
    lacks: str = ""
    """The part that the student encoder has no place for, which makes these weights a starting point only."""

    def num_parameters(self) -> int:
        """As :meth:`StudentEncoder.num_parameters` counts them."""
        with torch.device("meta"):
            return StudentEncoder(self.config).num_parameters()

    def build(self, blocks: Optional[int] = None, dtype: torch.dtype = torch.float32) -> StudentEncoder:
        """The encoder with these weights, in eval mode.

        Args:
            blocks: only the first so many.
            dtype: of `StoredWeights`, which are turned into it as they are read: nothing large is there twice. Others
                become float32.
        """
        kept = self.config.layers if blocks is None else blocks
        stored = self.weights if isinstance(self.weights, StoredWeights) else None
        with torch.device("meta") if stored else contextlib.nullcontext():
            encoder = StudentEncoder(replace(self.config, layers=max(1, kept)))
        del encoder.blocks[kept:]
        weights = dict(stored.in_turn(dtype)) if stored else self.weights
        encoder.load_state_dict(weights, assign=stored is not None)
        return encoder.eval()


def read_encoder(spec: str, blocks: Optional[int] = None) -> EncoderCheckpoint:
    """The encoder in hf:DIR, fairseq:FILE.pt, fairseq2:FILE.pt or colld:FILE.pt; heads and decoders stay behind.

    Args:
        blocks: read the weights of the first so many blocks only, with all that lies before them; default: all.

    Raises:
        CheckpointError: the file is missing, damaged, or lacks weights.
        ConfigError: the model is none that the student encoder can express (the message names why).
    """
    module, name = format_of(spec)
    return module.read(name, blocks)


def write_encoder(scheme: str, path: Path, checkpoint: EncoderCheckpoint) -> None:
    """Write an encoder to `path`: a new directory for "hf", a file for "fairseq", "fairseq2" and "colld".

    Raises ConfigError that names what the format cannot hold; nothing is written then.
    """
    format_of(f"{scheme}:{path}")[0].write(path, checkpoint)


def hash_of(spec: str) -> str:
    """sha256 of everything in the files of `spec` that decides what the model computes."""
    module, name = format_of(spec, TEACHERS)
    return content_hash(module.files(name))


def format_of(spec: str, formats: Formats = FORMATS) -> Tuple[Any, str]:
    """Module of the format, and what follows the scheme."""
    scheme, _, name = spec.partition(":")
    if scheme not in formats or not name:
        teaches = f" ({scheme}: can teach, but has no weights that a student could start from)"
        raise ConfigError(f"{spec!r}: write {usage(formats)}{teaches if scheme in TEACHERS else ''}")
    return importlib.import_module(f"{__package__}.{formats[scheme][1]}"), name


def usage(formats: Formats = FORMATS) -> str:
    """How specs are written, for help and messages."""
    *others, last = (written for written, _ in formats.values())
    return f"{', '.join(others)} or {last}"


# Starting a student


def start_from(encoder: StudentEncoder, checkpoint: EncoderCheckpoint, layers: Optional[Sequence[int]]) -> List[str]:
    """Copy weights of a checkpoint into a student, in place; returns the names of the weights that were copied.

    layers: as for :func:`take_layers`, whose errors it raises.
    """
    taken = take_layers(checkpoint.weights, checkpoint.config, encoder.config, layers)
    if not taken:
        raise ConfigError("nothing in it has the shape of the student's weights")
    encoder.load_state_dict(taken, strict=False)
    return list(taken)


def every_kth(count: int, depth: int) -> List[int]:
    """`count` of the layers 1..depth, evenly spaced and ending with the last: round(k * depth / count), halves up.

    The blocks that start a student are those whose output its layers predict under `--layer-map dense`.
    """
    return [(2 * k * depth + count) // (2 * count) for k in range(1, count + 1)]


def take_layers(
    state: Mapping[str, Tensor], teacher: EncoderConfig, student: EncoderConfig, layers: Optional[Sequence[int]] = None
) -> StateDict:
    """The part of a teacher's weights that starts a shallower student of the same width.

    Args:
        state: the teacher in our names, of configuration `teacher`; of `StoredWeights` only what is taken is read.
        student: configuration of the student.
        layers: the teacher block (1 is the first) that starts each student block. None takes :func:`every_kth`; an
            empty sequence copies no block, which also suits students of another width.

    Returns:
        Our names -> tensors (copies): the chosen blocks, and of front-end, positions, norm and mask embedding every
        tensor whose name and shape are the student's. Load with `load_state_dict(..., strict=False)`.

    Raises:
        ConfigError: blocks are to be copied and the two blocks differ, or a layer does not exist.
    """
    if layers is None:
        layers = every_kth(student.layers, teacher.layers)
    wrong = [layer for layer in layers if not 1 <= layer <= teacher.layers]
    if wrong:
        raise ConfigError(f"teacher blocks {wrong} do not exist; the teacher has 1..{teacher.layers}")
    if layers:
        if len(layers) != student.layers:
            raise ConfigError(
                f"{len(layers)} teacher blocks given for {student.layers} student blocks; give one for each"
            )
        _check_same_blocks(teacher, student)
    other_kind = ("blocks.", *_parts_of_another_kind(teacher, student))
    expected, shapes = _expected_weights(student), shapes_of(state)
    same = [name for name in shapes if name in expected and expected[name].shape == shapes[name].shape]
    taken = {name: state[name].clone() for name in same if not name.startswith(other_kind)}
    blocks: Dict[str, List[str]] = {}
    for name in shapes:
        blocks.setdefault(block_of(name), []).append(name)
    for index, layer in enumerate(layers):  # of weights that are read when they are asked for, these alone
        source, target = f"blocks.{layer - 1}.", f"blocks.{index}."
        taken.update({target + name.removeprefix(source): state[name].clone() for name in blocks.get(source, ())})
    return taken


def _parts_of_another_kind(teacher: EncoderConfig, student: EncoderConfig) -> Tuple[str, ...]:
    """Name prefixes of the parts that mean something else in the student, even where the shapes agree."""

    def differ(*names: str) -> bool:
        return any(getattr(teacher, name) != getattr(student, name) for name in names)

    parts = []
    if differ("front_end"):
        parts.append("front_end.")
    if differ("conv_layers", "extractor_norm"):
        parts.append("front_end.layers.")
    if differ("norm_first"):
        parts.append("layer_norm.")
    return tuple(parts)


def _check_same_blocks(teacher: EncoderConfig, student: EncoderConfig) -> None:
    names = ["block", "embed_dim", "ffn_dim", "attention_heads", "activation", "position"]
    if student.block == "transformer":
        names += ["norm_first"]
        if teacher.front_end == student.front_end == "whisper":
            names += ["fbank_bins"]
    else:
        names += ["depthwise_conv_kernel", "causal_conv"]
    if student.position == "relative_key":
        names += ["max_left_position", "max_right_position"]
    differ = [
        f"{name} (teacher {getattr(teacher, name)!r}, student {getattr(student, name)!r})"
        for name in names
        if getattr(teacher, name) != getattr(student, name)
    ]
    if differ:
        raise ConfigError(
            f"teacher blocks cannot start the student's: {', '.join(differ)} differ. Give the student the "
            "teacher's values, or start its blocks at random"
        )


def _expected_weights(config: EncoderConfig) -> StateDict:
    """Names and shapes of a student's weights, without values."""
    with torch.device("meta"):
        return StudentEncoder(config).state_dict()


# Names and configurations of other libraries


@dataclass(frozen=True)
class Names:
    """How a library calls the weights of an encoder."""

    table: Sequence[Tuple[str, str]]
    """(their name, our name); {n} is a number, {w} is "weight" or "bias". ".qkv.0." in ours is the query's third of the
    joint projection, 1 the key's, 2 the value's. Where several of theirs stand for one of ours, the first is written:
    the names of current versions."""
    prefixes: Sequence[str]
    """What may stand before their names, in models with a head."""
    parts: Sequence[str]
    """How their names of encoder weights begin; all others (heads, quantizers) are left behind."""
    ignored: str = ""
    """Regular expression of encoder weights that have no place here."""
    absent: str = "mask_emb"
    """Regular expression of our weights that files may lack: zeros then. Models that never masked have no mask
    embedding."""

    def to_ours(
        self, state: StateDict, config: EncoderConfig, blocks: Optional[int] = None, origin: str = "weights"
    ) -> StateDict:
        """Their state dict as one that a StudentEncoder of `config` loads strictly, cut to its first `blocks`.

        Raises CheckpointError that names (as they do) weights that are missing, of another shape than `config` says, or
        without a place in the student.
        """
        expected = split_projections(_expected_weights(config))
        weights_here: StateDict = {}
        wrong: Dict[str, List[str]] = {"missing": [], "of another shape": [], "without a place": []}
        for full_name, tensor in state.items():
            name = self.without_prefix(full_name)
            ours = self.ours(name)
            if not is_kept(ours, blocks):
                continue
            if ours not in expected:
                if ours is not None or name.startswith(tuple(self.parts)) and not re.match(self.ignored or "$", name):
                    wrong["without a place"].append(full_name)
                continue
            shape = expected[ours].shape
            if tensor.dim() == len(shape) + 1 and tensor.size(-1) == 1:
                tensor = tensor.squeeze(-1)  # pointwise convolutions [out, in, 1] are linear layers here
            if tensor.shape != shape:
                wrong["of another shape"].append(f"{full_name} is {list(tensor.shape)}, expected {list(shape)}")
            weights_here[ours] = tensor
        like = next(iter(weights_here.values()), torch.zeros(0))  # half precision stays so
        for name in expected:
            if name not in weights_here and is_kept(name, blocks) and re.fullmatch(self.absent, name):
                weights_here[name] = like.new_zeros(expected[name].shape)
        missing = [name for name in expected if is_kept(name, blocks) and name not in weights_here]
        wrong["missing"] = [self.theirs(name) or name for name in missing]
        if any(wrong.values()):
            reasons = [f"{len(names)} {what} ({_some(names)})" for what, names in wrong.items() if names]
            raise CheckpointError(
                f"{origin}: encoder weights are wrong: {'; '.join(reasons)}. Take the complete checkpoint with its own"
                " configuration"
            )
        return join_projections(weights_here)

    def stored(
        self,
        files: Tensors,
        config: EncoderConfig,
        blocks: Optional[int] = None,
        origin: str = "weights",
        others: Optional[StateDict] = None,
    ) -> StoredWeights:
        """`to_ours` of what lies in files: names and shapes are checked at once, values are read when asked for.

        others: weights under their names that are in no file.
        """
        shapes = self.to_ours({**files.shapes, **(others or {})}, config, blocks, origin)
        theirs = {self.ours(self.without_prefix(name)): name for name in files.shapes}
        sources = {name: [theirs.get(part) for part in projections(name)] for name in shapes}
        return StoredWeights(files, shapes, sources)

    def to_theirs(self, weights: Mapping[str, Tensor]) -> StateDict:
        """Weights of a StudentEncoder under their names (copies). ConfigError where one has no place there."""
        renamed = {name: (self.theirs(name), tensor) for name, tensor in split_projections(weights).items()}
        unexpected = [
            name for name, (theirs, _) in renamed.items() if theirs is None and not re.fullmatch(self.absent, name)
        ]
        if unexpected:
            raise ConfigError(f"the format has no place for {_some(unexpected)} ({len(unexpected)} tensors)")
        return {
            theirs: (tensor.unsqueeze(-1) if ".pointwise_" in name else tensor).clone()
            for name, (theirs, tensor) in renamed.items()
            if theirs is not None
        }

    def select(self, state: StateDict) -> StateDict:
        """The tensors that the student takes over, under their names without prefix."""
        bare = {self.without_prefix(name): tensor for name, tensor in state.items()}
        return {name: tensor for name, tensor in bare.items() if self.ours(name)}

    def ours(self, name: Optional[str]) -> Optional[str]:
        """Our name of a weight, by the first row that fits; None where none does."""
        return _renamed(name, self._rules[0])

    def theirs(self, name: Optional[str]) -> Optional[str]:
        """Their name of one of our weights, likewise."""
        return _renamed(name, self._rules[1])

    @cached_property
    def _rules(self) -> Tuple[List[Tuple[re.Pattern, str]], List[Tuple[re.Pattern, str]]]:
        return _name_rules(self.table), _name_rules([(ours, theirs) for theirs, ours in self.table])

    def without_prefix(self, name: str) -> str:
        """The name without what stands before it in models with a head."""
        return next((name[len(prefix) :] for prefix in self.prefixes if name.startswith(prefix)), name)


def is_kept(ours: Optional[str], blocks: Optional[int]) -> bool:
    """Whether a weight belongs to the first blocks, or to none."""
    block = re.match(r"blocks\.(\d+)\.", ours or "")
    return block is None or blocks is None or int(block[1]) < blocks


def _name_rules(table: Sequence[Tuple[str, str]]) -> List[Tuple[re.Pattern, str]]:
    rules = []
    for name, other in table:
        pattern = re.escape(name).replace(r"\{n\}", r"(?P<n>\d+)").replace(r"\{w\}", "(?P<w>weight|bias)")
        rules.append((re.compile(pattern), other))
    return rules


def _renamed(name: Optional[str], rules: Sequence[Tuple[re.Pattern, str]]) -> Optional[str]:
    for pattern, other in rules:
        if match := pattern.fullmatch(name or ""):
            return other.format(**match.groupdict())
    return None


def projections(name: str) -> List[str]:
    """Names of the thirds `….qkv.0.*`, `.1`, `.2` of a joint `….qkv.*`; of any other weight its own."""
    return [name.replace(".qkv.", f".qkv.{index}.") for index in range(3)] if ".qkv." in name else [name]


def split_projections(state: Mapping[str, Tensor]) -> StateDict:
    """Every joint `….qkv.*` replaced by its thirds."""
    split: StateDict = {}
    for name, tensor in state.items():
        parts = projections(name)
        split.update(zip(parts, tensor.chunk(len(parts)) if len(parts) > 1 else [tensor]))
    return split


def join_projections(state: StateDict) -> StateDict:
    """:func:`split_projections` backwards."""
    joined: StateDict = {}
    for name, tensor in state.items():
        if ".qkv.0." in name:
            name = name.replace(".qkv.0.", ".qkv.")
            joined[name] = torch.cat([state[part] for part in projections(name)])
        elif ".qkv." not in name:
            joined[name] = tensor
    return joined


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


class Fields:
    """How a library calls the fields of a configuration: our field=(theirs, its default where a file says nothing)."""

    def __init__(self, **table: Tuple[str, Any]) -> None:
        self.theirs = {ours: name for ours, (name, _) in table.items()}
        self.defaults = dict(table.values())

    def to_ours(self, settings: Dict[str, Any]) -> Dict[str, Any]:
        """Their fields as ours; the values stay theirs."""
        complete = {**self.defaults, **settings}
        return {ours: complete[name] for ours, name in self.theirs.items()}

    def to_theirs(self, config: EncoderConfig) -> Dict[str, Any]:
        """:meth:`to_ours` backwards."""
        return {name: getattr(config, ours) for ours, name in self.theirs.items()}


class Layout(NamedTuple):
    """A kind of encoder in a format: how messages call it, its configuration in both directions, and its names.

    What it can hold is not listed: a configuration is written, read back, and compared.
    """

    name: str
    write: Callable[[EncoderConfig], Sequence[Dict[str, Any]]]
    read: Callable[..., EncoderConfig]
    names: Optional[Names] = None  # None: ours


def lost_fields(config: EncoderConfig, layout: Layout) -> Dict[str, Tuple[Any, Any]]:
    """Field -> (value, value in the target) for every field that the target cannot hold; empty = it fits."""
    again = layout.read(*layout.write(config))
    idle = _fields_without_effect(config)
    pairs = {name: (getattr(config, name), getattr(again, name)) for name in config.to_dict() if name not in idle}
    return {name: (value, there) for name, (value, there) in pairs.items() if _comparable(value) != _comparable(there)}


def _comparable(value: Any) -> Any:
    """Libraries add different constants to the variance of a waveform, and other silence; that is no other input."""
    return (
        replace(value, variance_floor=0.0, tail_seconds=0.0, least_seconds=0.0)
        if isinstance(value, InputConfig)
        else value
    )


def check_fits(config: EncoderConfig, layout: Layout) -> None:
    """Raises ConfigError that names what does not fit `layout`, and the targets that can hold it."""
    lost = lost_fields(config, layout)
    if lost:
        show = {name: [str(v) if isinstance(v, InputConfig) else repr(v) for v in pair] for name, pair in lost.items()}
        fields = ", ".join(f"{name}={value} (always {there} there)" for name, (value, there) in show.items())
        layouts = [other for scheme in FORMATS for other in format_of(f"{scheme}:x")[0].LAYOUTS]
        able = [other.name for other in layouts if not lost_fields(config, other)]
        raise ConfigError(
            f"{layout.name} has no place for {fields}; this encoder can be written as {' or '.join(able)}"
        )


def _fields_without_effect(config: EncoderConfig) -> List[str]:
    """Fields that only shape a part which this encoder does not have, and those of training alone."""
    idle = ["feature_grad_mult"]  # acts on gradients only; transformers has no such field
    if config.input is None:  # not said yet
        idle += ["input"]
    if config.front_end != "waveform":
        idle += ["conv_layers", "extractor_norm", "conv_bias"]
    if config.front_end != "fbank_stack":
        idle += ["fbank_stack"]
    if config.front_end != "conv2d":
        idle += ["subsampling_channels"]
    if config.front_end == "waveform":
        idle += ["fbank_bins"]
    if config.front_end in ("fbank", "conv2d", "whisper"):
        idle += ["feature_norm"]
    if config.block == "transformer":
        idle += ["depthwise_conv_kernel", "causal_conv"]
    else:
        idle += ["norm_first"]
    if config.context == "full":
        idle += ["chunk_sizes", "left_contexts"]
    if config.position != "conv":
        idle += ["conv_pos", "conv_pos_groups"]
    if config.position != "relative_key":
        idle += ["max_left_position", "max_right_position"]
    if config.position != "sinusoidal":
        idle += ["max_positions"]
    return idle
