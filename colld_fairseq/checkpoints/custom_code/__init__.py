"""Python files that `colld convert --head` copies into a directory of transformers for Conformers on filterbanks.

They run there without this package: nothing is imported but torch, numpy, transformers, and one another.
"""

from pathlib import Path

FILES = ("configuration_colld.py", "modeling_colld.py", "feature_extraction_colld.py")

#: What config.json and preprocessor_config.json say of them.
MODEL_MAP = {
    "AutoConfig": "configuration_colld.ColldConfig",
    "AutoModelForCTC": "modeling_colld.ColldForCTC",
}
EXTRACTOR_MAP = {"AutoFeatureExtractor": "feature_extraction_colld.ColldFeatureExtractor"}


def copy_to(directory: Path) -> None:
    """Write the files into a directory that is there."""
    for name in FILES:
        (directory / name).write_bytes(Path(__file__).with_name(name).read_bytes())


def is_copy(path: Path) -> bool:
    """Whether a file is what `copy_to` wrote."""
    return path.is_file() and path.read_bytes() == Path(__file__).with_name(path.name).read_bytes()
