"""Which settings of training differ between systems, and what all of them were trained with."""

from typing import Any, Collection, Dict, List, NamedTuple, Sequence, Tuple

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
# What a reader asks of a run first.
_TOLD = (
    *("task.teacher", "task.teacher_decoder", "model.student", "model.init_from", "model.init_layers"),
    *("model._name", "model.encoder_preset", "model.encoder_layers", "model.encoder_embed_dim", "model.layer_map"),
    *("task.data", "dataset.train_subset", "dataset.valid_subset", "criterion._name", "optimization.max_update"),
    *("dataset.max_tokens", "dataset.batch_size", "optimization.update_freq", "optimization.lr", "optimizer._name"),
    *("lr_scheduler._name", "model.freeze_encoder_updates", "common.bf16", "common.fp16", "common.seed"),
)
NOT_SET = "–"
_NOTHING = (NOT_SET, "None", '""', "False", "0", "[1]")


class Differences(NamedTuple):
    """rows: setting -> its value for each system, in their order."""

    stage: str
    systems: List[System]
    rows: Dict[str, List[str]]


def differences(systems: Sequence[System]) -> List[Differences]:
    """Of every stage of training that several systems have, by the logs of their first seeds; stages without a
    difference are left out, and so are systems whose log does not tell its configuration."""
    tables = [_table(stage, *_configs(systems, stage)) for stage in _stages(systems)]
    return [table for table in tables if table.rows]


def in_common(systems: Sequence[System]) -> List[Differences]:
    """Of every stage what a reader asks first, where it is the same for all systems: one column."""
    tables = []
    for stage in _stages(systems):
        _, configs = _configs(systems, stage, left_out=_LEFT_OUT - {"common.seed"})
        values = {name: {config.get(name, NOT_SET) for config in configs.values()} for name in _TOLD}
        rows = {name: [*own] for name, own in values.items() if len(own) == 1 and not own & set(_NOTHING)}
        tables.append(Differences(stage, [], rows))
    return [table for table in tables if table.rows]


def _stages(systems: Sequence[System]) -> List[str]:
    return [*dict.fromkeys(stage for system in systems for stage in system.runs[0].stages)]


def _configs(
    systems: Sequence[System], stage: str, left_out: Collection[str] = _LEFT_OUT
) -> Tuple[List[System], Dict[int, Dict[str, str]]]:
    """The systems whose first seed's log of a stage tells its configuration, and those, by index."""
    configs = {
        system.index: flat(system.runs[0].stages[stage].log.config, left_out=left_out)
        for system in systems
        if stage in system.runs[0].stages and system.runs[0].stages[stage].log.config
    }
    return [one for one in systems if one.index in configs], configs


def of_command_lines(systems: Sequence[System]) -> Differences:
    """Of the settings that recipes were started with, one column for each experiment."""
    first = {id(system.experiment): system for system in reversed(systems)}
    shown = [system for system in systems if first[id(system.experiment)] is system]
    return _table("", shown, {one.index: flat(one.experiment.settings) for one in shown})


def _table(stage: str, systems: List[System], configs: Dict[int, Dict[str, str]]) -> Differences:
    names = sorted(set().union(*configs.values())) if configs else []
    rows = {name: [configs[system.index].get(name, NOT_SET) for system in systems] for name in names}
    return Differences(stage, systems, {name: row for name, row in rows.items() if len(set(row)) > 1})


def flat(config: Any, prefix: str = "", left_out: Collection[str] = _LEFT_OUT) -> Dict[str, str]:
    """`{"task": {"data": "x"}}` as `{"task.data": "x"}`, without what says nothing about training."""
    if not isinstance(config, dict):
        return {prefix: " ".join(str(config).split()) or '""'}
    values: Dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if name not in left_out:
            values.update(flat(value, name, left_out))
    return values
