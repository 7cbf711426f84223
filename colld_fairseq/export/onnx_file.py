"""Graphs of torch as files of ONNX: written, described, quantized."""

import contextlib
import logging
import re
import warnings
from pathlib import Path
from typing import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

EXPORTERS = ("dynamo", "torchscript")
Axes = Mapping[str, Mapping[int, str]]  # input or output -> dimension that may have any size -> its name


def write_graph(
    path: Path, graph: nn.Module, example: Mapping[str, Tensor], outputs: Sequence[str], axes: Axes, exporter: str
) -> None:
    """Write `graph` to one file.

    Args:
        example: input name -> tensor, in the order of the graph's arguments.
        axes: of inputs and outputs.
        exporter: "dynamo" (torch.export; supported), or "torchscript" (deprecated by torch, ten times as fast).
    """
    inputs = tuple(example.values())
    common = dict(input_names=list(example), output_names=list(outputs), external_data=False)
    with quiet_exporters(), torch.no_grad():
        if exporter == "dynamo":
            shapes = tuple(
                {axis: torch.export.Dim(label) for axis, label in axes.get(name, {}).items()} for name in example
            )
            torch.onnx.export(
                graph, inputs, str(path), dynamo=True, dynamic_shapes=shapes, opset_version=18, verbose=False, **common
            )
        else:
            torch.onnx.export(graph, inputs, str(path), dynamo=False, dynamic_axes=axes, opset_version=17, **common)


@contextlib.contextmanager
def quiet_exporters() -> Iterator[None]:
    """Without the warnings of torch's exporters about code that is as it should be."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def add_metadata(path: Path, values: Mapping[str, str]) -> None:
    """Write keys and values into a file, beside those that it has."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {**{item.key: item.value for item in model.metadata_props}, **values})
    onnx.save(model, path)


def quantize(path: Path, target: Path, every_operator: bool, in_32_bits: str = "") -> None:
    """Write the weights in 8 bits; activations follow at run time. Metadata stays.

    Matrix products alone, in signed integers of 7 bits: those of 8 overflow on processors without VNNI, ten times the
    error. Each output channel has a scale of its own, which takes a third of the error that is left; shapes of what
    lies between operators are left out to make up for that size. `every_operator`: convolutions too, in unsigned
    integers, which waveform students need to become smaller. `in_32_bits`: regular expression; what it matches in the
    name of an operator (a module's path) stays as it is.

    A table that is looked up in and multiplied with as well (embeddings) is stored once, in 8 bits.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if every_operator:
        how = dict(weight_type=QuantType.QUInt8)
    else:
        how = dict(weight_type=QuantType.QInt8, reduce_range=True, per_channel=True, op_types_to_quantize=["MatMul"])
    if in_32_bits:
        how["nodes_to_exclude"] = [node.name for node in onnx.load(path).graph.node if re.search(in_32_bits, node.name)]
    root, level = logging.getLogger(), logging.getLogger().level
    try:
        root.setLevel(logging.ERROR)  # it advises every time to prepare the model
        quantize_dynamic(str(path), str(target), **how)
    finally:
        root.setLevel(level)
    model = onnx.load(target)
    if not every_operator:
        look_up_in_quantized(model)
    del model.graph.value_info[:]
    onnx.save(model, target)


def look_up_in_quantized(model) -> None:
    """Let `Gather` read the 8-bit table where a product has one of the same weights, and drop the table in 32 bits.

    The table is that of the product, [D, V] with a scale for each of V, so that what is looked up is [D, ...] and its
    scales [...].
    """
    import onnx
    from onnx import helper

    graph, tables = model.graph, {value.name for value in model.graph.initializer}
    twice = [node for node in graph.node if node.op_type == "Gather" and f"{node.input[0]}_quantized" in tables]
    for node in twice:
        table, tokens, output = node.input[0], node.input[1], node.output[0]
        node.input[0], node.output[0] = f"{table}_quantized", f"{output}_quantized"
        then = [
            helper.make_node("Cast", [f"{output}_quantized"], [f"{output}_integers"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Gather", [f"{table}_scale", tokens], [f"{output}_scale"]),
            helper.make_node("Mul", [f"{output}_integers", f"{output}_scale"], [output]),
        ]
        index = list(graph.node).index(node)
        for offset, new in enumerate(then, 1):
            graph.node.insert(index + offset, new)
    used = {name for node in graph.node for name in node.input}
    for value in [value for value in graph.initializer if value.name not in used]:
        graph.initializer.remove(value)
