"""The folder that a client opens: graphs, quantized graphs, symbols, README."""

import os
import shutil
from pathlib import Path
from typing import List, Set

from colld_fairseq.checkpoints.onnx_reading import check_installed
from colld_fairseq.errors import ConfigError
from colld_fairseq.export.eight_bits import quantize
from colld_fairseq.export.family import CARD, Exported, Family, graph_file
from colld_fairseq.export.onnx_file import add_metadata
from colld_fairseq.export.way_back import keep_checkpoint


def check_replaceable(folder: Path, overwrite: bool) -> None:
    """Raises ConfigError where something is in the way that may not be replaced."""
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; give a folder")
    if not overwrite:
        raise ConfigError(f"{folder}: exists; give another name, --overwrite to replace it, or --wav to compare it")


def file_names(family: Family, int8: bool) -> Set[str]:
    """What a folder holds."""
    precisions = [False, True] if int8 else [False]
    graphs = {graph_file(graph.name, bits8) for graph in family.graphs() for bits8 in precisions}
    return {*graphs, *family.files(), CARD}


def content_of(folder: Path) -> List[str]:
    """Files in a folder and below it, by their path in it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def exported_in(folder: Path, family: Family) -> Exported:
    """A folder that was written before. Raises ConfigError where a file is missing."""
    exported = Exported(family, folder)
    missing = sorted(name for name in file_names(family, exported.int8) - {CARD} if not (folder / name).is_file())
    if missing:
        raise ConfigError(f"{folder}: {missing[0]} is not there; export it again with --overwrite")
    return exported


def write_folder(folder: Path, family: Family, int8: bool, exporter: str) -> Exported:
    """Export a recogniser: complete, or not at all.

    Args:
        folder: is replaced where it is there, if it holds nothing but the files of such an export.
        int8: whether to write weights in 8 bits, too.
        exporter: see `onnx_file.write_graph`.

    Raises ConfigError where a package is missing, or the folder holds something else.
    """
    check_installed("onnx", "onnxruntime", *(["onnxscript"] if exporter == "dynamo" else []))
    others = [name for name in content_of(folder) if name not in file_names(family, True)]
    if others:
        raise ConfigError(
            f"{folder}: holds files that this export does not write ({', '.join(others[:4])}), and would be replaced as"
            " a whole; give another name"
        )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        write_files(temporary, family, int8, exporter)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return exported_in(folder, family)


def write_files(folder: Path, family: Family, int8: bool, exporter: str) -> None:
    """All files of an export into an empty folder."""
    for name, content in family.files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    for graph in family.graphs():
        path = folder / graph_file(graph.name)
        path.parent.mkdir(exist_ok=True)
        graph.write(path, exporter)
        add_metadata(path, graph.metadata)
        if int8:
            quantize(path, folder / graph_file(graph.name, True), graph.eight_bits)
    keep_checkpoint(family, folder)
    sizes = {name: (folder / name).stat().st_size for name in content_of(folder) if name.endswith(".onnx")}
    (folder / CARD).write_text(family.card(sizes), encoding="utf-8")
