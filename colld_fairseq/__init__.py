"""colld_fairseq: distil large speech encoders into small multilingual recognisers and translators, with fairseq.

Importing this package registers every task, criterion and model with fairseq, whether it happens through
`--user-dir`, from an installed package or twice. The light rooms (`losses`, `modules`, `data.manifest`, ...) can be
imported on their own only through this package, so its import also makes the installed fairseq usable (compat).
"""

import sys

from colld_fairseq import compat

_asked_by_fairseq = "fairseq" in sys.modules
try:
    compat.prepare()
except ImportError as error:
    if _asked_by_fairseq:
        raise
    _unusable = str(error)  # `colld doctor` has to start all the same, and says how to mend it
else:
    from colld_fairseq import criterions, models, tasks  # noqa: F401  (registration)
    from colld_fairseq.models.loading import load_student
    from colld_fairseq.recogniser import load_recogniser


def __getattr__(name: str):
    if name in ("load_student", "load_recogniser"):
        raise ImportError(_unusable)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.1.0"
__all__ = ["load_recogniser", "load_student", "__version__"]
