"""Packaging. fairseq itself is installed separately and without its dependencies: see README, "Install".

The version is that of colld_fairseq/__init__.py. A wheel carries the recipes as files below colld_fairseq/recipes, in
the same folders as in the clone: all configurations, and of the quickstart also the program and the data (15 MB).
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
RECIPES = (
    "examples/**/*.yaml",
    "examples/__init__.py",
    "examples/driver/*.py",
    "examples/quickstart/*.py",
    "examples/quickstart/*.md",
    "examples/quickstart/prompts.*",
)

# What ve-fairseq really needs at run time. It is installed with --no-deps because it also asks for torchaudio,
# whose wheel cannot load beside a CPU torch and then breaks transformers' audio models.
FAIRSEQ_NEEDS = [
    "hydra-core>=1.3.2",
    "omegaconf>=2.3",
    "bitarray",
    "cffi",
    "cython",
    "editdistance",  # --scoring wer
    "packaging",
    "regex",
    "sacrebleu>=2.4",
    "tqdm",
]

# `colld export`: graphs of ONNX, and the clients that they are compared in.
EXPORT_NEEDS = ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.5", "sherpa-onnx>=2.0,<3", "onnx-asr>=0.12"]

# `colld transcribe --vad`: its graphs lie in the wheel.
VAD_NEEDS = ["silero-vad>=5", "onnxruntime>=1.18"]

# m4a, mp4, webm, ...: PyAV, whose wheels bring FFmpeg's libraries.
MEDIA_NEEDS = ["av>=12"]


class BuildWithRecipes(build_py):
    """Adds RECIPES to a wheel. A development install (`pip install -e`) reads them from the clone."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for path in sorted({path for pattern in RECIPES for path in HERE.glob(pattern)}):
            target = Path(self.build_lib, "colld_fairseq", "recipes", path.relative_to(HERE))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def version() -> str:
    source = (HERE / "colld_fairseq" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE).group(1)


setup(
    name="colld_fairseq",
    version=version(),
    description="Distil large speech encoders into small multilingual recognizers and translators, with fairseq",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The colld_fairseq authors",
    license="MIT",  # of the code; prompts and teacher of the quickstart have their own
    license_files=["LICENSE", "examples/quickstart/LICENSES.md"],
    keywords=["speech recognition", "speech translation", "knowledge distillation", "fairseq", "Whisper", "HuBERT"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["colld_fairseq", "colld_fairseq.*"]),
    py_modules=["colld_command"],
    package_data={"colld_fairseq": ["py.typed", "report/page.html", "report/page.css"]},
    cmdclass={"build_py": BuildWithRecipes},
    install_requires=FAIRSEQ_NEEDS
    + [
        "torch>=2.4",
        "jinja2>=3",  # `colld report`; torch brings it
        "numpy",
        "kaldi-native-fbank>=1.20",
        "matplotlib",
        "pyarrow>=14",
        "pyyaml",
        "rapidfuzz",
        "rich",
        "safetensors",
        "scikit-learn>=1.3",
        "sentencepiece",
        "soundfile>=0.13",
        "soxr",
        "tabulate",
        "tensorboardX",
        "transformers>=5.0",
    ],
    extras_require={
        "lm": ["kenlm"],
        "export": EXPORT_NEEDS,
        "vad": VAD_NEEDS,
        "media": MEDIA_NEEDS,
        # faster-whisper brings CTranslate2: clients of the Whisper directories that `colld convert` writes
        "test": [
            "pytest",
            "pytest-xdist",
            "hypothesis>=6",
            "jiwer>=3.1",
            "mypy>=2.4,<3",
            "numba",
            "ruff>=0.17,<0.18",  # another version formats otherwise
            "setuptools>=77",  # a test builds a wheel
            "warprnnt_numba",
            "faster-whisper>=1.1",
            *EXPORT_NEEDS,
            *VAD_NEEDS,
            *MEDIA_NEEDS,
        ],
    },
    entry_points={"console_scripts": ["colld = colld_command:main"]},
)
