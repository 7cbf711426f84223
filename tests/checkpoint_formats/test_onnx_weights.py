"""Weights looked up in graphs of torch's exporter by their values, and read out of them again."""

import json

import numpy as np
import onnx
import pytest
import torch

from colld_fairseq.checkpoints.onnx_weights import note, read, tensors_of
from colld_fairseq.errors import CheckpointError


class Model(torch.nn.Module):
    """What exporters transpose (matrices), fold (weight normalization), merge (equal tensors) and leave out."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 5)
        self.square = torch.nn.Linear(5, 5, bias=False)
        self.conv = torch.nn.utils.weight_norm(torch.nn.Conv1d(5, 4, 3, padding=1), dim=2)
        self.norm, self.twin = torch.nn.LayerNorm(4), torch.nn.LayerNorm(4)
        self.unused = torch.nn.Parameter(torch.randn(3))
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x):
        x = self.conv(self.square(self.linear(x)).transpose(1, 2)).transpose(1, 2)
        return self.twin(self.norm(x))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    model, path = Model().eval(), tmp_path_factory.mktemp("graph") / "model.onnx"
    torch.onnx.export(model, (torch.randn(1, 9, 6),), str(path), dynamo=False, opset_version=17, input_names=["x"])
    return model, path


def notes_of(model, path):
    """As they are after they were written and read."""
    return json.loads(json.dumps(note(model.state_dict(), {path.name: tensors_of(path)})))


def test_every_weight_comes_back(exported):
    model, path = exported
    notes = notes_of(model, path)
    weights = read(notes, {path.name: tensors_of(path)})
    expected = model.state_dict()
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert weight.dtype == expected[name].dtype and weight.shape == expected[name].shape
        if not name.startswith("conv.weight_"):
            assert torch.equal(weight, expected[name]), name
    inside = [name for name, one in notes.items() if "tensor" in one]
    assert sorted(set(expected) - set(inside)) == ["count", "unused"]
    other, x = Model().eval(), torch.randn(2, 11, 6)
    other.load_state_dict(weights)
    torch.testing.assert_close(other(x), model(x), atol=1e-6, rtol=0)


def test_weights_in_several_graphs(exported, tmp_path):
    model, path = exported
    alone = torch.nn.Linear(3, 2)
    torch.onnx.export(alone, (torch.randn(1, 4, 3),), str(tmp_path / "b.onnx"), dynamo=False, opset_version=17)
    weights = {**model.state_dict(), **{f"alone.{name}": value for name, value in alone.state_dict().items()}}
    graphs = {"a.onnx": tensors_of(path), "b.onnx": tensors_of(tmp_path / "b.onnx")}
    notes = note(weights, graphs)
    assert notes["alone.weight"]["file"] == "b.onnx" and notes["linear.weight"]["file"] == "a.onnx"
    assert torch.equal(read(notes, graphs)["alone.weight"], alone.weight)


@pytest.mark.parametrize(
    "change",
    [
        dict(tensor="no such tensor"),
        dict(file="other.onnx"),
        dict(form="diagonal"),
        dict(shape=[5, 7]),
        dict(shape="5"),
        dict(dtype="float16"),
        dict(dtype="int64"),
    ],
)
def test_notes_that_do_not_fit_are_refused_with_the_weight_s_name(change, exported):
    model, path = exported
    notes = notes_of(model, path)
    notes["linear.weight"].update(change)
    with pytest.raises(CheckpointError, match="linear.weight is not where the export noted it.*export .* again"):
        read(notes, {path.name: tensors_of(path)})


def test_a_tensor_in_another_file_is_not_read(exported, tmp_path):
    """Its name could be that of any file of this machine."""
    _, path = exported
    model = onnx.load(path)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(CheckpointError, match="lies in another file"):
        tensors_of(tmp_path / "m.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(CheckpointError, match="no graph of ONNX"):
        tensors_of(tmp_path / "text.onnx")


def test_quantized_weights_are_not_taken_for_weights(exported):
    model, path = exported
    notes, tensors = notes_of(model, path), dict(tensors_of(path))
    tensors[notes["linear.weight"]["tensor"]] = np.zeros((6, 5), dtype=np.int8)
    with pytest.raises(CheckpointError, match="quantized"):
        read(notes, {path.name: tensors})
