"""Files of graphs say nothing of the machine that wrote them."""

import onnx
import pytest
import torch
from torch import nn

from colld_fairseq.export.onnx_file import EXPORTERS, forget_origins, write_graph


class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.linear(x))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_no_source_code_and_no_paths(exporter, tmp_path):
    path = tmp_path / "graph.onnx"
    write_graph(
        path, Squeezed().eval(), {"x": torch.zeros(2, 4)}, ["y"], {"x": {0: "rows"}, "y": {0: "rows"}}, exporter
    )
    content = path.read_bytes()
    for word in (b"stack_trace", b"test_onnx_file", b"Squeezed", str(tmp_path).encode()):
        assert word not in content
    onnx.checker.check_model(str(path))
    (node, *_) = [node for node in onnx.load(path).graph.node if node.op_type == "Tanh"]
    assert not node.metadata_props and not node.doc_string


def test_graphs_inside_of_graphs():
    def body(name):
        inner = onnx.helper.make_node("Identity", ["x"], [name], doc_string="/home/anna/secret.py")
        return onnx.helper.make_graph([inner], name, [], [onnx.helper.make_tensor_value_info(name, 1, [1])])

    choice = onnx.helper.make_node("If", ["c"], ["y"], then_branch=body("a"), else_branch=body("b"), alpha=1.0)
    inputs = [onnx.helper.make_tensor_value_info("x", 1, [1]), onnx.helper.make_tensor_value_info("c", 9, [])]
    graph = onnx.helper.make_graph([choice], "g", inputs, [onnx.helper.make_tensor_value_info("y", 1, [1])])
    attributes = [attribute.name for attribute in graph.node[0].attribute]
    forget_origins(graph)
    assert b"secret" not in graph.SerializeToString()
    assert [attribute.name for attribute in graph.node[0].attribute] == attributes
    assert not [one for one in graph.node[0].attribute if one.name == "alpha" and one.HasField("g")]
