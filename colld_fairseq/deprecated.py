"""Options under their former names: for one release they work as before, with one warning each.

They are renamed where they enter: on the command lines of fairseq, in the YAML of fairseq-hydra-train, and, without a
warning (nobody typed them), in the configuration of a checkpoint. `compat.accept_former_options` hooks these doors of
fairseq; whoever reads a checkpoint without fairseq calls `upgrade`. Behind the doors there are the present names only.
"""

import logging
from contextlib import nullcontext
from typing import Any, Dict, List, MutableMapping, Optional, Sequence, Set, Tuple

from omegaconf import DictConfig, open_dict

from colld_fairseq.errors import ConfigError

logger = logging.getLogger(__name__)

# PART.OPTION of before -> PART.OPTION of now; a part is `task`, `model` or `criterion`.
RENAMED: Dict[str, str] = {
    "criterion.front_end_updates": "model.front_end_updates",
    "criterion.prune_range": "model.prune_range",
    "criterion.topology": "model.topology",
    "task.ctc_lm": "task.ngram_lm",
    "task.ctc_lm_unit": "task.ngram_lm_unit",
    "task.ctc_lm_weight": "task.ngram_lm_weight",
    "task.ctc_length_score": "task.length_bonus",
    "task.freq_masks": "task.specaug_freq_masks",
    "task.freq_mask_width": "task.specaug_freq_width",
    "task.time_masks": "task.specaug_time_masks",
    "task.time_mask_width": "task.specaug_time_width",
    "task.time_mask_share": "task.specaug_time_share",
    "model.time_mask_prob": "model.mask_prob",
    "model.time_mask_length": "model.mask_length",
    "model.channel_mask_prob": "model.mask_channel_prob",
    "model.channel_mask_length": "model.mask_channel_length",
}
# PART.SWITCH that is gone -> what says the same now.
DROPPED: Dict[str, str] = {
    "model.front_end_head": "part of --front-end-updates, which brings one",
    "model.simple_joiner": "part of --prune-range, which builds one",
}

_warned: Set[str] = set()


def upgrade(cfg: MutableMapping[str, Any], warn: bool = False) -> None:
    """Rename, in place, the options of a configuration {"task": {...}, "model": {...}, "criterion": {...}}.

    cfg: a plain dict, or a DictConfig. Parts of it that are not this project's stay as they are. Raises ConfigError for
    an option that is given under both its names.
    """
    model = cfg.get("model")
    gone = _model_and_preset(model.get("_name")) if isinstance(model, MutableMapping) else None
    if gone is not None:
        if warn:
            _warn(f"model {model['_name']}", "model {}, encoder_preset {}".format(*gone))
        with _writable(model):
            model["_name"] = gone[0]
            model.setdefault("encoder_preset", gone[1])
    for before in (*RENAMED, *DROPPED):
        part, name = before.split(".")
        now = RENAMED.get(before, before)
        new_part, new_name = now.split(".")
        if not (_is_ours(cfg, part) and name in cfg[part] and _is_ours(cfg, new_part)):
            continue
        with _writable(cfg[part]), _writable(cfg[new_part]):
            value = cfg[part].pop(name)
            if warn:
                _warn(before, DROPPED.get(before) or now)
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
    result: List[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        before = former.get(flag)
        if before in DROPPED:
            _warn(flag, DROPPED[before])
            continue
        if before is not None and _flag(RENAMED[before]) != flag:
            _warn(flag, _flag(RENAMED[before]))
            argument = _flag(RENAMED[before]) + equals + value
        result.append(argument)
        arch = value if flag == "--arch" else argument if result[-2:-1] in (["--arch"], ["-a"]) else ""
        gone = _model_and_preset(arch)
        if gone is not None:
            _warn(f"--arch {arch}", "--arch {} --encoder-preset {}".format(*gone))
            result[-1:] = [argument.replace(arch, gone[0]), "--encoder-preset", gone[1]]
    return result


def _flag(option: str) -> str:
    return "--" + option.rpartition(".")[2].replace("_", "-")


def _warn(before: str, now: str) -> None:
    if before not in _warned:
        _warned.add(before)
        logger.warning("%s is now %s; the former name will stop working with the next release", before, now)


def _model_and_preset(arch: Optional[str]) -> Optional[Tuple[str, str]]:
    """Of an architecture MODEL_PRESET that is no longer registered; there was one for every pair."""
    from fairseq.models import ARCH_MODEL_REGISTRY

    from colld_fairseq.models.encoder_presets import PRESETS

    if arch and arch not in ARCH_MODEL_REGISTRY:
        for model in ("colld_student", "student_ctc", "student_s2t", "transducer_student"):
            if arch.startswith(f"{model}_") and arch[len(model) + 1 :] in PRESETS:
                return model, arch[len(model) + 1 :]
    return None


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
