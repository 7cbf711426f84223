"""Graphs of torch as files of ONNX: written and described."""

from pathlib import Path
from typing import Mapping, Sequence

import torch
from torch import Tensor, nn

from colld_fairseq.quiet import quiet

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
    import onnx

    inputs = tuple(example.values())
    common = dict(input_names=list(example), output_names=list(outputs), external_data=False)
    with quiet(), torch.no_grad():
        if exporter == "dynamo":
            shapes = tuple(
                {axis: torch.export.Dim(label) for axis, label in axes.get(name, {}).items()} for name in example
            )
            torch.onnx.export(
                graph, inputs, str(path), dynamo=True, dynamic_shapes=shapes, opset_version=18, verbose=False, **common
            )
        else:
            torch.onnx.export(graph, inputs, str(path), dynamo=False, dynamic_axes=axes, opset_version=17, **common)
    model = onnx.load(path)
    forget_origins(model.graph)
    onnx.save(model, path)


def forget_origins(graph) -> None:
    """Takes out what torch notes down of each node: lines of source code and paths of the machine that exported, which
    are a fifth of a small student's 8-bit file."""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                forget_origins(inner)


def add_metadata(path: Path, values: Mapping[str, str]) -> None:
    """Write keys and values into a file, beside those that it has."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {**{item.key: item.value for item in model.metadata_props}, **values})
    onnx.save(model, path)
