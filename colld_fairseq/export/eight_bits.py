"""Weights of a graph in 8 bits."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Set

import numpy as np

from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.quiet import quiet

BLOCK = 64  # weights that share a scale: half the error of 128, and 3 % more bytes


@dataclass(frozen=True)
class EightBits:
    """How a graph becomes one of 8 bits.

    Attributes:
        every_operator: convolutions too, in unsigned integers, which waveform students need to become smaller.
        in_blocks: a scale for each block of weights and activations, not for a channel or a whole matrix: closest to
            32 bits and, for a decoder that takes one row a time, as fast. Encoders are faster the other way.
        in_32_bits: regular expression; what it matches in the name of an operator (a module's path) stays as it is.
    """

    every_operator: bool = False
    in_blocks: bool = False
    in_32_bits: str = ""


IN_BLOCKS = EightBits(in_blocks=True)


def encoder_in_eight_bits(config: EncoderConfig) -> EightBits:
    """Of an encoder before a decoder. The first attention on Whisper's log-mels stays as it is: in 8 bits, it alone is
    most of the encoder's error (RESULTS.md)."""
    return EightBits(
        every_operator=config.input.kind == "waveform",
        in_32_bits=r"/blocks\.0/attention/" if config.input.kind == "log_mel" else "",
    )


def quantize(path: Path, target: Path, how: EightBits) -> None:
    """Write the graph of `path` with weights of 8 bits. Metadata stays.

    Shapes of what lies between operators, which no runtime needs, are left out to make up for the size of the scales.
    """
    import onnx

    model = in_blocks(onnx.load(path)) if how.in_blocks else dynamic(path, target, how)
    del model.graph.value_info[:]
    onnx.save(model, target)


def dynamic(path: Path, target: Path, how: EightBits) -> Any:
    """Weights and, at run time, activations in integers; `target` is written on the way.

    Matrix products alone, in signed integers of 7 bits: those of 8 overflow on processors without VNNI, ten times the
    error. Each output channel has a scale of its own, which takes a third of the error that is left.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if how.every_operator:
        options: Dict[str, Any] = dict(weight_type=QuantType.QUInt8)
    else:
        options = dict(
            weight_type=QuantType.QInt8, reduce_range=True, per_channel=True, op_types_to_quantize=["MatMul"]
        )
    if how.in_32_bits:
        names = [node.name for node in onnx.load(path).graph.node]
        options["nodes_to_exclude"] = [name for name in names if re.search(how.in_32_bits, name)]
    with quiet():  # it advises every time to prepare the model
        quantize_dynamic(str(path), str(target), **options)
    return onnx.load(target)


def in_blocks(model: Any) -> Any:
    """Every product with weights has them as 8-bit integers, and a scale for each block; activations likewise.

    A table that is looked up in and multiplied with as well (embeddings) is stored once.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with quiet():  # it tells of every operator
        quantizer = MatMulNBitsQuantizer(model, bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=4)
        quantizer.process()
    look_up_in_blocks(quantizer.model.model)
    return quantizer.model.model


def look_up_in_blocks(model: Any) -> None:
    """Let `Gather` read the 8-bit table where a product has one of the same weights, and drop the table in 32 bits."""
    graph = model.graph
    products = {node.input[1].rsplit("_Q8", 1)[0]: node for node in graph.node if node.op_type == "MatMulNBits"}
    for node in [node for node in graph.node if node.op_type == "Gather" and node.input[0] in products]:
        index = list(graph.node).index(node)
        graph.node.remove(node)
        for offset, new in enumerate(look_up(graph, node, products[node.input[0]])):
            graph.node.insert(index + offset, new)
    used = names_read(graph)
    for value in [value for value in graph.initializer if value.name not in used]:
        graph.initializer.remove(value)


def names_read(graph: Any) -> Set[str]:
    """What the operators of a graph read, those of branches and loops (graphs in attributes) included."""
    names = {name for node in graph.node for name in node.input}
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            names |= names_read(inner) | {output.name for output in inner.output}
    return names


def look_up(graph: Any, gather: Any, product: Any) -> List[Any]:
    """Operators from tokens [n] to columns [D, n] of the product's weights [D, V].

    The product has them as [V, D / BLOCK, BLOCK], 0 written 128 and the last block filled up, and scales
    [V, D / BLOCK].
    """
    import onnx
    from onnx import helper, numpy_helper

    sizes = {attribute.name: attribute.i for attribute in product.attribute}
    rows, width, block = sizes["N"], sizes["K"], sizes["block_size"]
    blocks = -(-width // block)
    (_, tokens), (output,) = gather.input, gather.output

    def name(part: str) -> str:
        return f"{output}_{part}"

    constants = {
        "zero": np.float32(128),
        "scale_shape": np.array([rows, blocks, 1]),
        "shape": np.array([-1, blocks * block]),
        "first": np.array([0]),
        "last": np.array([width]),
        "axis": np.array([1]),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name(part)) for part, value in constants.items())
    return [
        helper.make_node("Gather", [product.input[1], tokens], [name("integers")], axis=0),
        helper.make_node("Cast", [name("integers")], [name("unsigned")], to=onnx.TensorProto.FLOAT),
        helper.make_node("Sub", [name("unsigned"), name("zero")], [name("signed")]),
        helper.make_node("Reshape", [product.input[2], name("scale_shape")], [name("all_scales")]),
        helper.make_node("Gather", [name("all_scales"), tokens], [name("scales")], axis=0),
        helper.make_node("Mul", [name("signed"), name("scales")], [name("blocks")]),
        helper.make_node("Reshape", [name("blocks"), name("shape")], [name("filled_up")]),
        helper.make_node("Slice", [name("filled_up"), name("first"), name("last"), name("axis")], [name("rows")]),
        helper.make_node("Transpose", [name("rows")], [output], perm=[1, 0]),
    ]
