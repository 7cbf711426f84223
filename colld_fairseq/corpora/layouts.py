"""The layouts that `colld prepare` knows: a name, and the module that reads it (its docstring says what lies where)."""

import importlib
from typing import Callable, Dict, Iterator, NamedTuple, Tuple

from colld_fairseq.corpora.request import Request
from colld_fairseq.corpora.utterance import Listed
from colld_fairseq.errors import ConfigError


class Layout(NamedTuple):
    """The module with its `read`, and which fields of a request that not every layout can serve it does."""

    module: str
    options: Tuple[str, ...] = ()


OPTIONS = ("translate_into", "translations", "columns", "raw_text", "audio_root")
LAYOUTS: Dict[str, Layout] = {
    "librispeech": Layout("librispeech"),
    "mls": Layout("multilingual_librispeech"),
    "common-voice": Layout("common_voice", ("translate_into", "translations")),
    "fleurs": Layout("fleurs", ("translate_into", "raw_text")),
    "must-c": Layout("yaml_segments", ("translate_into",)),
    "voxpopuli": Layout("voxpopuli", ("raw_text",)),
    "stm": Layout("stm"),
    "folder": Layout("folder", ("translate_into", "columns")),
    "table": Layout("table", ("translate_into", "columns", "audio_root")),
    "nemo": Layout("nemo", ("translate_into", "audio_root")),
    "kaldi": Layout("kaldi", ("translate_into", "audio_root")),
    "lhotse": Layout("lhotse", ("translate_into", "columns", "audio_root")),
    "huggingface": Layout("hugging_face", ("translate_into", "columns", "audio_root")),
}


def reader(layout: str, request: Request) -> Callable[[Request], Iterator[Listed]]:
    """The layout's `read`. Only its own module is imported. ConfigError for an option that would have no effect."""
    for option in OPTIONS:
        if getattr(request, option) and option not in LAYOUTS[layout].options:
            able = ", ".join(name for name, one in LAYOUTS.items() if option in one.options)
            raise ConfigError(
                f"--{option.replace('_', '-')} says nothing about {layout}, only about {able}: leave it out"
            )
    return importlib.import_module(f"colld_fairseq.corpora.{LAYOUTS[layout].module}").read
