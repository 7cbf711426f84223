"""Filterbanks that somebody stored as `.npy` arrays, as fairseq's speech-to-text scripts do: a file, or a zip member.

Paths are those of audio: `file.npy`, or `archive.zip:offset:length`, the bytes of an uncompressed member. What is
stored is [T, bins] of floats at 100 Hz, as `data.fbank.log_mel_fbank` computes its variant "kaldi" (fairseq:
torchaudio's or Kaldi's filterbanks of 16-bit samples). NumPy writes the format; nothing pickled is read.
"""

import io
import math
import os
from typing import BinaryIO, Optional, Tuple

import numpy as np

from colld_fairseq.data.audio import explain_member, open_bytes, split_zip_spec
from colld_fairseq.errors import AudioError
from colld_fairseq.files import printable

STORED_SUFFIX = ".npy"
STORED_VARIANT = "kaldi"  # of `data.fbank`; what fairseq's scripts store
_MAGIC = b"\x93NUMPY"
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_AGAIN = "extract the filterbanks again, or remove its row"


def is_stored_fbank(path_spec: str) -> Optional[bool]:
    """Whether a path names an array: by its suffix, of zip members by their first bytes. None: no such bytes."""
    zip_spec = split_zip_spec(path_spec)
    if zip_spec is None:
        return path_spec.endswith(STORED_SUFFIX)
    path, offset, _ = zip_spec
    try:
        with open(path, "rb") as handle:
            handle.seek(offset)
            start = handle.read(len(_MAGIC))
    except (OSError, ValueError, OverflowError):  # whoever reads the row says what is wrong
        return None
    return start == _MAGIC if start else None


def stored_shape(path_spec: str) -> Tuple[int, int]:
    """(frames, bins), from the header and the number of bytes. AudioError as `read_stored_fbank`, but for values."""
    with open_bytes(path_spec) as handle:
        return _header(path_spec, handle)[0]


def read_stored_fbank(path_spec: str, bins: int) -> np.ndarray:
    """Filterbanks float32 [T, bins], T > 0.

    AudioError: no such file, no array, one that is truncated, of another shape, of pickled objects or of anything but
    floats, values that are NaN or infinite.
    """
    name = printable(path_spec)
    with open_bytes(path_spec) as handle:
        (frames, width), dtype, order = _header(path_spec, handle)
        data = handle.read()
    if width != bins:
        raise AudioError(f"{name}: filterbanks of {width} bins, but {bins} are wanted; {_AGAIN}")
    features = np.frombuffer(data, dtype).reshape((frames, bins), order=order).astype(np.float32)
    bad = features.size - int(np.isfinite(features).sum())
    if bad:
        raise AudioError(f"{name}: {bad} of {features.size} values are NaN or infinite; {_AGAIN}")
    return features


def _header(path_spec: str, handle: BinaryIO) -> Tuple[Tuple[int, int], np.dtype, str]:
    """Shape, type and order ("C" or "F") of the array behind the handle, which then stands at its first value."""
    name = printable(path_spec)
    if handle.read(len(_MAGIC)) != _MAGIC:
        raise AudioError(f"{name}: no .npy array{explain_member(path_spec, 'is none')}; {_AGAIN}")
    handle.seek(0)
    try:
        version = np.lib.format.read_magic(handle)
        shape, is_fortran, dtype = _READERS[version](handle)
    except Exception as error:  # a header is a piece of Python to numpy, which raises what its parser does
        raise AudioError(f"{name}: the header of the .npy array is damaged ({error}); {_AGAIN}") from error
    if dtype.hasobject:
        raise AudioError(
            f"{name}: an array of pickled Python objects, which are not loaded; save floats [frames, bins]"
        )
    if len(shape) != 2 or min(shape) < 0 or not np.issubdtype(dtype, np.floating):
        raise AudioError(
            f"{name}: an array of {dtype} of shape {shape}, but filterbanks are floats [frames, bins]; {_AGAIN}"
        )
    start, expected = handle.tell(), math.prod(shape) * dtype.itemsize
    there = handle.seek(0, os.SEEK_END) - start
    handle.seek(start, io.SEEK_SET)
    if there != expected:
        what = "truncated" if there < expected else "followed by something else"
        raise AudioError(
            f"{name}: {what}, {there} bytes where an array of shape {shape} has {expected}"
            f"{explain_member(path_spec, 'is damaged')}; {_AGAIN}"
        )
    if shape[0] == 0:
        raise AudioError(f"{name}: no frames (empty utterance); remove its row")
    return shape, dtype, "F" if is_fortran else "C"
