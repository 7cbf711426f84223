"""Tasks, models and criterions in this process, as fairseq-train would set them up."""

import copy
from types import SimpleNamespace

from commands import PACKAGE
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from colld_fairseq.teachers.several import Teachers
from colld_fairseq.teachers.source import TeacherSource


def configure(*arguments):
    """The complete configuration fairseq-train makes from a command line."""
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(
        parser, ["--user-dir", str(PACKAGE), "--max-tokens", "60000", *map(str, arguments)]
    )
    return convert_namespace_to_omegaconf(args)


def set_up(*arguments):
    """cfg, task, model and criterion."""
    return assemble(configure(*arguments))


def assemble(cfg):
    """cfg, task, model and criterion of a configuration."""
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    return SimpleNamespace(cfg=cfg, task=task, model=model, criterion=task.build_criterion(cfg.criterion))


def vary(cfg, **values):
    """A copy of a configuration with other values of the task's, model's or criterion's options.

    Making one from a command line takes fairseq a second.
    """
    cfg = copy.deepcopy(cfg)
    for name, value in values.items():
        (part,) = (part for part in (cfg.task, cfg.model, cfg.criterion) if name in part)
        part[name] = value
    return cfg


def fake_task(info):
    """What a student is built for: one teacher of which no more is known than `info`, and no file is read."""
    source = TeacherSource("teacher", "hf:none")
    source.info = info
    return SimpleNamespace(teachers=Teachers([source]), combination="sum")
