"""Copies of exported folders, and what may be wrong with the graphs of one."""

import json
import shutil

import numpy as np
import onnx

from colld_fairseq.checkpoints.onnx_reading import read_metadata
from colld_fairseq.export.family import ENCODER
from colld_fairseq.export.onnx_file import add_metadata


def copied(exported, tmp_path):
    """A copy of an exported folder, in `tmp_path`/copy."""
    return exported._replace(folder=shutil.copytree(exported.folder, tmp_path / "copy"))


def drop_metadata(path, name):
    """Takes a key out of a graph's metadata."""
    model = onnx.load(path)
    kept = [item for item in model.metadata_props if item.key != name]
    assert len(kept) < len(model.metadata_props)
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, path)


def change_input(path, **values):
    """Lets a graph say that its encoder takes another input."""
    config = json.loads(read_metadata(path)[ENCODER])
    config["input"].update(values)
    add_metadata(path, {ENCODER: json.dumps(config)})


def change_weights(path):
    """Multiplies the largest weight of a graph by 1.5."""
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda value: int(np.prod(value.dims)))
    largest.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(largest) * 1.5, largest.name))
    onnx.save(model, path)
