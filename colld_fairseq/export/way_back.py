"""The way back from an exported folder to a checkpoint: what an export notes down for it."""

from pathlib import Path

from colld_fairseq.checkpoints import onnx_folder
from colld_fairseq.data import vocabulary_copy
from colld_fairseq.export.family import Family, graph_file
from colld_fairseq.export.onnx_file import add_metadata


def keep_checkpoint(family: Family, folder: Path) -> None:
    """Note in the first 32-bit graph of a folder what makes a checkpoint of it again, see `checkpoints.onnx_folder`."""
    paths = [folder / graph_file(graph.name) for graph in family.graphs()]
    recogniser = family.recogniser
    text = onnx_folder.describe(
        recogniser.settings["model"],
        family.task_settings,
        recogniser.task.state_dict()[vocabulary_copy.NAME],
        family.model.state_dict(),
        {path.name: path for path in paths},
    )
    add_metadata(paths[0], {onnx_folder.KEY: text})
