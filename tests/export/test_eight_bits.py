"""Weights in blocks of 8 bits: products and look-ups beside those of 32 bits."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from colld_fairseq.export.comparison import int8_text_stage
from colld_fairseq.export.eight_bits import BLOCK, IN_BLOCKS, names_read, quantize
from colld_fairseq.export.onnx_file import write_graph

TOKENS, SIZE = torch.tensor([3, 0, 7, 7]), 50


class Tied(nn.Module):
    """Tokens [n] -> rows of a table [n, D], and what the table makes of them [n, V]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(width, SIZE))

    def forward(self, tokens):
        rows = self.table.index_select(1, tokens).permute(1, 0)
        return rows, rows @ self.table


@pytest.mark.parametrize("width", [BLOCK // 2, BLOCK, 2 * BLOCK + 5])
def test_rows_and_products_come_from_one_table(width, tmp_path):
    torch.manual_seed(1)
    module = Tied(width)
    axes = {"tokens": {0: "n"}, "rows": {0: "n"}, "products": {0: "n"}}
    path, small = tmp_path / "a.onnx", tmp_path / "b.onnx"
    write_graph(path, module, {"tokens": TOKENS}, ["rows", "products"], axes, "torchscript")
    quantize(path, small, IN_BLOCKS)
    session = onnxruntime.InferenceSession(str(small), providers=["CPUExecutionProvider"])
    rows, products = session.run(None, {"tokens": TOKENS.numpy()})

    table = blockwise(module.table.detach().numpy().T)
    np.testing.assert_allclose(rows, table[TOKENS.numpy()], atol=1e-6)
    exact = rows @ table.T
    assert np.abs(products - exact).max() < 0.02 * np.abs(exact).max()  # activations have 8 bits as well
    large = [value for value in onnx.load(small).graph.initializer if value.data_type == onnx.TensorProto.FLOAT]
    assert all(np.prod(value.dims) <= SIZE * (width // BLOCK + 1) for value in large)


def test_what_branches_read_is_kept():
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    branches = [
        helper.make_graph([helper.make_node("Identity", ["inner"], ["y"])], "then", [], [value]),
        helper.make_graph([], "else", [], [helper.make_tensor_value_info("outer", TensorProto.FLOAT, [1])]),
    ]
    node = helper.make_node("If", ["choice"], ["z"], then_branch=branches[0], else_branch=branches[1])
    graph = helper.make_graph([node], "whole", [], [])
    assert names_read(graph) == {"choice", "inner", "y", "outer"}


def blockwise(weights: np.ndarray) -> np.ndarray:
    """[V, D] with each row's blocks rounded to multiples of 1/128 of their largest, which is met exactly."""
    result = np.empty_like(weights)
    for first in range(0, weights.shape[1], BLOCK):
        part = weights[:, first : first + BLOCK]
        index = np.abs(part).argmax(1)
        scale = part[np.arange(len(part)), index][:, None] / -128
        result[:, first : first + BLOCK] = np.clip(np.rint(part / scale), -128, 127) * scale
    return result


@pytest.mark.parametrize(
    "theirs, runtime, same",
    [
        ("your party's name", "your party's name", True),
        ("lte si ter prsprso or as nnd", "lte si ter prsprseo or las nnd", True),  # of a real student and sherpa-onnx
        ("lte si ter prsprso", "lte si ter prsprseo or las nnd", False),
        ("lte si ter prsprso or as", "lte si ter prspxe or es", False),
        ("", "lte", False),
    ],
)
def test_a_client_may_round_single_symbols_otherwise(theirs, runtime, same):
    stage = int8_text_stage("8 bits, sherpa-onnx", theirs, runtime)
    assert stage.same == same and repr(theirs) in stage.detail and "PyTorch" not in stage.detail
    assert (f"ONNX Runtime {runtime!r}" in stage.detail) == (theirs != runtime)
