"""colld_fairseq: distil large speech encoders into small multilingual recognisers and translators, with fairseq.

Importing this package registers every task, criterion and model with fairseq, whether it happens through
`--user-dir`, from an installed package or twice. Only the `colld` command puts that off (see colld_command.py).
"""

import importlib
import sys

__version__ = "0.1.0"
__all__ = ["load_recogniser", "load_student", "register", "__version__"]

_MODULES = {"load_student": "colld_fairseq.checkpoints.names_colld", "load_recogniser": "colld_fairseq.recogniser"}


def register() -> None:
    """Make the installed fairseq usable and register with it. Raises ImportError with the remedy where it is not."""
    from colld_fairseq import compat

    compat.prepare()
    for room in ("criterions", "models", "optim", "tasks"):
        importlib.import_module(f"{__name__}.{room}")


def __getattr__(name: str):
    """What Python users import from here, once it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    register()
    return getattr(importlib.import_module(_MODULES[name]), name)


if "colld_command" not in sys.modules:
    _asked_by_fairseq = "fairseq" in sys.modules
    try:
        register()
    except ImportError:
        if _asked_by_fairseq:
            raise  # else `colld doctor` has to start all the same, and says how to mend it
