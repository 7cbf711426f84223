"""What `colld doctor` looks at: versions, what really works, and the command that mends what does not."""

import importlib
import io
import logging
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Iterator, List, NamedTuple

import numpy as np

import colld_fairseq
from colld_fairseq import compat

USER_DIR = Path(__file__).resolve().parents[2]
INSTALL = f"{sys.executable} -m pip install"

# module -> distribution
REQUIRED = {
    "hydra": "hydra-core>=1.3.2",
    "omegaconf": "omegaconf>=2.3",
    "transformers": "transformers>=5.0",
    "numpy": "numpy",
    "soundfile": "soundfile>=0.13",
    "soxr": "soxr",
    "kaldi_native_fbank": "kaldi-native-fbank>=1.20",
    "pyarrow": "pyarrow>=14",
    "safetensors": "safetensors",
    "sentencepiece": "sentencepiece",
    "sacrebleu": "sacrebleu>=2.4",
    "rapidfuzz": "rapidfuzz",
    "matplotlib": "matplotlib",
    "sklearn": "scikit-learn>=1.3",
    "yaml": "pyyaml",
}
OPTIONAL = {
    "kenlm": ("kenlm", "n-gram language models in CTC decoding"),
    "tensorboardX": ("tensorboardX", "--tensorboard-logdir"),
    "jiwer": ("jiwer", "second opinion in the tests"),
}
# libsndfile's format and subtype
CODECS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


class Finding(NamedTuple):
    """One line of the report. state: "works", "broken" (needed and not working) or "optional" (not there)."""

    what: str
    state: str
    detail: str
    remedy: str = ""


def examine() -> List[Finding]:
    """All findings, in the order in which things depend on each other."""
    logging.disable(logging.INFO)  # libraries that tell about their own start
    try:
        required = [package(module, name, "broken", "") for module, name in REQUIRED.items()]
        optional = [package(module, name, "optional", f", for {use}") for module, (name, use) in OPTIONAL.items()]
        return [python(), torch(), gpu(), *required, fairseq(), *codecs(), torchaudio(), *optional]
    finally:
        logging.disable(logging.NOTSET)


def python() -> Finding:
    version = f"{platform.python_version()} at {sys.executable}"
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Finding("Python", "works", version)
    return Finding("Python", "broken", version, "PYTHON=python3.12 bash scripts/setup_venv.sh")


def torch() -> Finding:
    try:
        module = importlib.import_module("torch")
        device = module.cuda.get_device_name() if module.cuda.is_available() else "CPU"
        return Finding("torch", "works", f"{module.__version__}, {device}, {module.get_num_threads()} threads")
    except Exception as error:  # noqa: BLE001 - whatever an import may raise
        return Finding("torch", "broken", one_line(error), f"{INSTALL} 'torch>=2.4'")


def gpu() -> Finding:
    """A GPU that the driver sees and torch cannot use."""
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", "works", "none; everything runs on the CPU")
    module = sys.modules.get("torch")
    if module is not None and module.cuda.is_available():
        return Finding("GPU", "works", f"{module.cuda.device_count()} of {module.cuda.get_device_name()}")
    return Finding("GPU", "optional", "nvidia-smi is there, torch sees no GPU", f"{INSTALL} --force-reinstall torch")


def package(module: str, requirement: str, otherwise: str, use: str) -> Finding:
    name = requirement.split(">")[0]
    try:
        importlib.import_module(module)
        return Finding(name, "works", metadata.version(name))
    except Exception as error:  # noqa: BLE001
        return Finding(name, otherwise, one_line(error) + use, f"{INSTALL} '{requirement}'")


def fairseq() -> Finding:
    """fairseq itself, and whether it knows our tasks, criterions and models."""
    install = compat.INSTALL_FAIRSEQ.replace("pip install", INSTALL)
    try:
        compat.check_fairseq()
        from fairseq.criterions import CRITERION_REGISTRY
        from fairseq.models import MODEL_REGISTRY
        from fairseq.tasks import TASK_REGISTRY

        colld_fairseq.register()
    except Exception as error:  # noqa: BLE001
        return Finding("fairseq", "broken", one_line(error), install)
    registered = [
        name
        for registry in (TASK_REGISTRY, CRITERION_REGISTRY, MODEL_REGISTRY)
        for name, value in registry.items()
        if value.__module__.startswith("colld_fairseq.")
    ]
    if not {"speech_distillation", "colld", "colld_student"} <= set(registered):
        return Finding("fairseq", "broken", f"our plugin is not registered, only {registered}", install)
    version = next(v for v in map(installed, ("ve-fairseq", "fairseq", "fairseq-fixed", None)) if v)
    return Finding("fairseq", "works", f"{version}; registered: {', '.join(registered)}")


def installed(name: str | None) -> str | None:
    """Version of a distribution, None if it is not installed; "unknown version" for None."""
    try:
        return f"{name} {metadata.version(name)}" if name else "unknown version"
    except metadata.PackageNotFoundError:
        return None


def codecs() -> Iterator[Finding]:
    """Write and read a tone in each format, in memory."""
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    for name, (container, subtype) in CODECS.items():
        try:
            import soundfile

            stream = io.BytesIO()
            soundfile.write(stream, tone, 16000, format=container, subtype=subtype)
            stream.seek(0)
            decoded, rate = soundfile.read(stream)
            level = float(np.sqrt(np.mean(np.square(decoded[2000:6000]))))
            if rate != 16000 or not 0.15 < level < 0.28:  # 0.3 / sqrt(2) = 0.212
                raise ValueError(f"a tone comes back at {rate} Hz with level {level:.3f}")
            yield Finding(f"audio: {name}", "works", f"libsndfile {soundfile.__libsndfile_version__}")
        except Exception as error:  # noqa: BLE001
            yield Finding(f"audio: {name}", "broken", one_line(error), f"{INSTALL} --upgrade 'soundfile>=0.13'")


def torchaudio() -> Finding:
    """Not needed; one that cannot load is hidden from fairseq and transformers (see compat)."""
    version = installed("torchaudio")
    if version is None:
        return Finding("torchaudio", "works", "not installed, and not needed")
    compat.hide_broken_torchaudio()
    if sys.modules.get("torchaudio", "absent") is None:
        remedy = f"{sys.executable} -m pip uninstall -y torchaudio"
        return Finding("torchaudio", "optional", f"{version} cannot load; it is treated as absent", remedy)
    return Finding("torchaudio", "works", f"{version}; not used")


def one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
