"""`colld quickstart`: the recipe examples/quickstart, from the clone or from the copy of it that a wheel carries."""

import argparse
import importlib
import sys
from pathlib import Path

import colld_fairseq
from colld_fairseq.errors import ConfigError

PACKAGE = Path(colld_fairseq.__file__).resolve().parent
RECIPE = "examples.quickstart.run"


def run(args: argparse.Namespace) -> int:
    """Exits as the recipe does: 0 with a complete report, else with what is missing."""
    sys.path.insert(0, str(recipes()))
    recipe = importlib.import_module(RECIPE)
    recipe.run(recipe.completed(args))
    return 0


def recipes() -> Path:
    """The folder that `examples` lies in. ConfigError where neither a clone nor a wheel brought it."""
    for folder in (PACKAGE.parent, PACKAGE / "recipes"):
        if (folder / RECIPE.replace(".", "/")).with_suffix(".py").is_file():
            return folder
    raise ConfigError(f"examples/quickstart is not beside {PACKAGE}: install the wheel anew, or start from a clone")
