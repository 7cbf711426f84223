"""colld_fairseq: distil large speech encoders into small multilingual recognisers and translators, with fairseq.

Importing this package registers every task, criterion and model with fairseq, whether it happens through
`--user-dir`, from an installed package or twice. The light rooms (`losses`, `modules`, `data.manifest`, ...) can be
imported on their own only through this package, so its import also makes the installed fairseq usable (compat).
"""
from colld_fairseq import compat

compat.prepare()

from colld_fairseq import criterions, models, tasks  # noqa: E402,F401  (registration)
from colld_fairseq.models.loading import load_student  # noqa: E402

__version__ = "0.1.0"
__all__ = ["load_student", "__version__"]
