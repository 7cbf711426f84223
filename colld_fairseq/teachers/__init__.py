"""Frozen teachers: `load_teacher("hf:DIR", layers=[4, 8])` turns waveforms into layer features."""

from typing import Sequence

from colld_fairseq.errors import TeacherError
from colld_fairseq.teachers.base import DTYPES, Teacher, TeacherOutput

__all__ = ["Teacher", "TeacherOutput", "load_teacher"]


def load_teacher(
    spec: str, layers: Sequence[int], kind: str = "layer", dtype: str = "float32", device: str = "cpu"
) -> Teacher:
    """Loads a frozen teacher from this machine; nothing is ever downloaded.

    Args:
        spec: "hf:DIR" (a directory in Hugging Face layout, or a name already in the local Hugging Face cache)
            or "fairseq:FILE.pt" (wav2vec 2.0, HuBERT, data2vec audio).
        layers: 0 = input of the first block, k = output of block k. Blocks above the highest are not kept.
        kind: "layer" (raw block output) or "ffn" (raw output of the block's feed-forward module, the second
            one in a Conformer, before residual and scale).
        dtype: "float32", "bfloat16" or "float16", of the weights and of the features returned.

    Raises TeacherError: unknown scheme or family, missing or misshaped weights, wrong layer number.
    """
    scheme, _, name = spec.partition(":")
    if dtype not in DTYPES:
        raise TeacherError(f"teacher {spec}: dtype is {dtype!r}, choose one of {', '.join(DTYPES)}")
    request = dict(layers=layers, kind=kind, dtype=DTYPES[dtype], device=device)
    if scheme == "hf" and name:
        from colld_fairseq.teachers.weights import read_config, resolve_directory

        directory = resolve_directory(name)
        config = read_config(directory)
        if config.get("model_type") == "whisper":
            from colld_fairseq.teachers.whisper import load_whisper

            return load_whisper(spec, directory, config, **request)
        from colld_fairseq.teachers.huggingface import load_huggingface

        return load_huggingface(spec, directory, config, **request)
    if scheme == "fairseq" and name:
        from colld_fairseq.teachers.fairseq_checkpoint import load_fairseq

        return load_fairseq(spec, name, **request)
    raise TeacherError(f"teacher {spec!r}: write hf:DIRECTORY or fairseq:FILE.pt")
