"""Options under their former names: for one release they work as before, with one warning each.

They are renamed where they enter: on the command lines of fairseq, in the YAML of fairseq-hydra-train, and, without a
warning (nobody typed them), in the configuration of a checkpoint. `compat.accept_former_options` hooks these doors of
fairseq; whoever reads a checkpoint without fairseq calls `upgrade`. Behind the doors there are the present names only.
"""

import logging
from contextlib import nullcontext
from typing import Any, Dict, List, MutableMapping, Sequence, Set

from omegaconf import DictConfig, open_dict

from colld_fairseq.errors import ConfigError

logger = logging.getLogger(__name__)

# PART.OPTION of before -> PART.OPTION of now; a part is `task`, `model` or `criterion`.
RENAMED: Dict[str, str] = {"criterion.topology": "model.topology"}
# PART.SWITCH that is gone -> what says the same now.
DROPPED: Dict[str, str] = {}

_warned: Set[str] = set()


def upgrade(cfg: MutableMapping[str, Any], warn: bool = False) -> None:
    """Rename, in place, the options of a configuration {"task": {...}, "model": {...}, "criterion": {...}}.

    cfg: a plain dict, or a DictConfig. Parts of it that are not this project's stay as they are. Raises ConfigError for
    an option that is given under both its names.
    """
    for before in (*RENAMED, *DROPPED):
        part, name = before.split(".")
        now = RENAMED.get(before, before)
        new_part, new_name = now.split(".")
        if not (_is_ours(cfg, part) and name in cfg[part] and _is_ours(cfg, new_part)):
            continue
        with _writable(cfg[part]), _writable(cfg[new_part]):
            value = cfg[part].pop(name)
            if warn:
                _warn(before, before)
            if before in DROPPED:
                continue
            if new_name in cfg[new_part]:
                raise ConfigError(f"{before} is the former name of {now}: give one of them")
            cfg[new_part][new_name] = value


def present_name(option: str) -> str:
    """What an option of any part is called now."""
    for before, now in RENAMED.items():
        if before.partition(".")[2] == option:
            return now.partition(".")[2]
    return option


def rename_arguments(arguments: Sequence[str]) -> List[str]:
    """A command line of fairseq with the present names of the options."""
    former = {_flag(before): before for before in (*RENAMED, *DROPPED)}
    result = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        before = former.get(flag)
        if before in RENAMED and _flag(RENAMED[before]) != flag:
            _warn(before, flag)
            argument = _flag(RENAMED[before]) + equals + value
        if before in DROPPED:
            _warn(before, flag)
        else:
            result.append(argument)
    return result


def _flag(option: str) -> str:
    return "--" + option.rpartition(".")[2].replace("_", "-")


def _warn(before: str, written: str) -> None:
    if before in _warned:
        return
    _warned.add(before)
    now = DROPPED.get(before) or (_flag(RENAMED[before]) if written.startswith("--") else RENAMED[before])
    logger.warning("%s is now %s; the former name will stop working with the next release", written, now)


def _is_ours(cfg: MutableMapping[str, Any], part: str) -> bool:
    """Whether a part of a configuration is there and belongs to a task, model or criterion of this project."""
    from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY
    from fairseq.tasks import TASK_DATACLASS_REGISTRY

    options = cfg.get(part)
    if not isinstance(options, MutableMapping):
        return False
    name = options.get("_name")
    registries = dict(
        task=TASK_DATACLASS_REGISTRY, model=MODEL_DATACLASS_REGISTRY, criterion=CRITERION_DATACLASS_REGISTRY
    )
    config = registries[part].get(ARCH_MODEL_NAME_REGISTRY.get(name, name) if part == "model" else name)
    return config is not None and config.__module__.startswith("colld_fairseq.")


def _writable(options: MutableMapping[str, Any]):
    return open_dict(options) if isinstance(options, DictConfig) else nullcontext()
