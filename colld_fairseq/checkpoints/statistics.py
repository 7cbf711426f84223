"""The statistics of a corpus' filterbanks: an .npz with `mean`, `std` and `fbank`, as `colld cmvn` writes it."""

import io
from typing import NamedTuple, Optional

import numpy as np

from colld_fairseq.compat import absolute_path
from colld_fairseq.constants import NUM_BINS
from colld_fairseq.errors import AudioError
from colld_fairseq.files import write_atomically
from colld_fairseq.modules.input_config import FBANKS, InputConfig

NAMED = ("none", "utterance")  # what --cmvn may be besides such a file


class Statistics(NamedTuple):
    """mean [bins] and std [bins] of filterbanks of a variant, which files of older versions and of others lack:
    "kaldi"."""

    mean: np.ndarray
    std: np.ndarray
    fbank: str = "kaldi"


def write_statistics(path: str, statistics: Statistics) -> None:
    """Under exactly this name, and complete or not at all."""
    content = io.BytesIO()
    np.savez(content, **statistics._asdict())
    write_atomically(path, content.getvalue())


def read_statistics(path: str, bins: int, fbank: Optional[str] = None) -> Statistics:
    """What the file holds; AudioError if it is missing, lacks one, or is of other filterbanks.

    fbank: the variant that they have to be of; None: any.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, std = arrays["mean"], arrays["std"]
            variant = str(arrays["fbank"]) if "fbank" in arrays else Statistics._field_defaults["fbank"]
    except Exception as error:  # what is no npz makes numpy, zipfile and zlib raise anything
        raise AudioError(
            f"{path}: no CMVN statistics (npz with mean and std): {error}; make them with `colld cmvn`"
        ) from error
    if not mean.shape == std.shape == (bins,):
        raise AudioError(
            f"{path}: CMVN statistics of mean {mean.shape} and std {std.shape}, but filterbanks have {bins} bins; make "
            "them with `colld cmvn`"
        )
    if mean.dtype.kind not in "fiu" or std.dtype.kind not in "fiu":
        raise AudioError(f"{path}: CMVN statistics that are no numbers; make them again with `colld cmvn`")
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise AudioError(f"{path}: CMVN statistics are not finite; make them again with `colld cmvn`")
    if variant not in FBANKS:
        raise AudioError(f"{path}: CMVN statistics of {variant!r} filterbanks, which are not one of {FBANKS}")
    if fbank not in (None, variant):
        raise AudioError(
            f"{path}: CMVN statistics of {variant} filterbanks, but {fbank} ones are asked for; make them with "
            f"`colld cmvn --fbank {fbank}`"
        )
    return Statistics(mean, std, variant)


def fbank_input(cmvn: str, bins: int = NUM_BINS, fbank: Optional[str] = None) -> InputConfig:
    """Filterbanks, normalized as --cmvn says: "none", "utterance" or a file of statistics.

    fbank: their variant; None: that of the statistics, else "kaldi". AudioError as `read_statistics`.
    """
    if cmvn in NAMED:
        return InputConfig(fbank=fbank or InputConfig.fbank, bins=bins, normalization=cmvn)
    mean, std, fbank = read_statistics(absolute_path(cmvn), bins, fbank)
    return InputConfig(fbank=fbank, bins=bins, normalization="corpus", mean=mean.tolist(), std=std.tolist())
