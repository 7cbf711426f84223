"""What this package registers with fairseq."""

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY

import colld_fairseq  # noqa: F401


def _ours(registry):
    return [config for config in registry.values() if config.__module__.startswith("colld_fairseq")]


TASKS = _ours(TASK_DATACLASS_REGISTRY)
CRITERIONS = _ours(CRITERION_DATACLASS_REGISTRY)
MODELS = _ours(MODEL_DATACLASS_REGISTRY)
DATACLASSES = [*TASKS, *CRITERIONS, *MODELS]
