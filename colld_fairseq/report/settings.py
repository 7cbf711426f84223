"""Which settings of training differ between systems."""

from typing import Any, Dict, List, NamedTuple, Sequence

from colld_fairseq.report.sections import System

# Where things lie and how they are told, not how a model is trained.
_LEFT_OUT = {
    "checkpoint.save_dir",
    "checkpoint.tensorboard_logdir",
    "common.log_file",
    "common.log_interval",
    "common.seed",
    "common.tensorboard_logdir",
    "common.user_dir",
    "common.wandb_project",
    "distributed_training.distributed_init_method",
    "distributed_training.distributed_port",
    "job_logging_cfg",
}
NOT_SET = "–"


class Differences(NamedTuple):
    """rows: setting -> its value for each system, in their order."""

    stage: str
    systems: List[System]
    rows: Dict[str, List[str]]


def differences(systems: Sequence[System]) -> List[Differences]:
    """Of every stage of training that several systems have, by the logs of their first seeds; stages without a
    difference are left out, and so are systems whose log does not tell its configuration."""
    stages = dict.fromkeys(stage for system in systems for stage in system.runs[0].stages)
    tables = []
    for stage in stages:
        configs = {
            system.index: flat(system.runs[0].stages[stage].log.config)
            for system in systems
            if stage in system.runs[0].stages and system.runs[0].stages[stage].log.config
        }
        tables.append(_table(stage, [one for one in systems if one.index in configs], configs))
    return [table for table in tables if table.rows]


def of_command_lines(systems: Sequence[System]) -> Differences:
    """Of the settings that recipes were started with, one column for each experiment."""
    first = {id(system.experiment): system for system in reversed(systems)}
    shown = [system for system in systems if first[id(system.experiment)] is system]
    return _table("", shown, {one.index: flat(one.experiment.settings) for one in shown})


def _table(stage: str, systems: List[System], configs: Dict[int, Dict[str, str]]) -> Differences:
    names = sorted(set().union(*configs.values())) if configs else []
    rows = {name: [configs[system.index].get(name, NOT_SET) for system in systems] for name in names}
    return Differences(stage, systems, {name: row for name, row in rows.items() if len(set(row)) > 1})


def flat(config: Any, prefix: str = "") -> Dict[str, str]:
    """`{"task": {"data": "x"}}` as `{"task.data": "x"}`, without what says nothing about training."""
    if not isinstance(config, dict):
        return {prefix: " ".join(str(config).split()) or '""'}
    values: Dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if name not in _LEFT_OUT:
            values.update(flat(value, name))
    return values
