"""Packaging. fairseq itself is installed separately and without its dependencies: see README, "Install"."""

from setuptools import find_packages, setup

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

setup(
    name="colld_fairseq",
    version="0.1.0",
    description="Distil large speech encoders into small multilingual recognisers and translators, with fairseq",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["colld_fairseq", "colld_fairseq.*"]),
    py_modules=["colld_command"],
    package_data={"colld_fairseq": ["py.typed", "report/page.html", "report/page.css"]},
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
            "jiwer>=3.1",
            "numba",
            "warprnnt_numba",
            "faster-whisper>=1.1",
            *EXPORT_NEEDS,
            *VAD_NEEDS,
            *MEDIA_NEEDS,
        ],
    },
    entry_points={"console_scripts": ["colld = colld_command:main"]},
)
