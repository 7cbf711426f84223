"""The statistics of a corpus' filterbanks: an .npz with `mean` and `std`, as `colld cmvn` writes it."""

import io
import zipfile
from typing import Tuple

import numpy as np

from colld_fairseq.compat import absolute_path
from colld_fairseq.constants import NUM_BINS
from colld_fairseq.errors import AudioError
from colld_fairseq.files import write_atomically
from colld_fairseq.modules.input_config import InputConfig

NAMED = ("none", "utterance")  # what --cmvn may be besides such a file


def write_statistics(path: str, mean: np.ndarray, std: np.ndarray) -> None:
    """Under exactly this name, and complete or not at all."""
    content = io.BytesIO()
    np.savez(content, mean=mean, std=std)
    write_atomically(path, content.getvalue())


def read_statistics(path: str, bins: int) -> Tuple[np.ndarray, np.ndarray]:
    """mean and std, each [bins]; AudioError if the file is missing, lacks one, or is of other filterbanks."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, std = arrays["mean"], arrays["std"]
    # what is no npz makes numpy raise anything; a plain .npy has no context manager
    except (OSError, EOFError, KeyError, TypeError, AttributeError, ValueError, zipfile.BadZipFile) as error:
        raise AudioError(
            f"{path}: no CMVN statistics (npz with mean and std): {error}; make them with `colld cmvn`"
        ) from error
    if not mean.shape == std.shape == (bins,):
        raise AudioError(
            f"{path}: CMVN statistics of mean {mean.shape} and std {std.shape}, but filterbanks have {bins} bins; make "
            "them with `colld cmvn`"
        )
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise AudioError(f"{path}: CMVN statistics are not finite; make them again with `colld cmvn`")
    return mean, std


def fbank_input(cmvn: str, bins: int = NUM_BINS) -> InputConfig:
    """Filterbanks, normalized as --cmvn says: "none", "utterance" or a file of statistics."""
    if cmvn in NAMED:
        return InputConfig(bins=bins, normalization=cmvn)
    mean, std = read_statistics(absolute_path(cmvn), bins)
    return InputConfig(bins=bins, normalization="corpus", mean=mean.tolist(), std=std.tolist())
