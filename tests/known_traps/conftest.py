"""A distillation task and a student in this process, as fairseq-train would set them up."""
from types import SimpleNamespace

import pytest
from commands import PACKAGE, TINY_ENCODER
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf


def configure(*arguments):
    """The complete configuration fairseq-train makes from a command line."""
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, ["--user-dir", str(PACKAGE), "--max-tokens", "60000", *map(str, arguments)])
    return convert_namespace_to_omegaconf(args)


def set_up(*arguments):
    """cfg, task, model and criterion."""
    cfg = configure(*arguments)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    return SimpleNamespace(cfg=cfg, task=task, model=model, criterion=task.build_criterion(cfg.criterion))


@pytest.fixture
def distillation(corpus, teacher):
    """Build with more options: distillation("--fp16", ...)."""

    def build(*more, arch="colld_student"):
        arguments = [corpus, "--task", "speech_distillation", "--teacher", teacher, "--criterion", "colld"]
        return set_up(*arguments, "--arch", arch, "--layer-map", "sparse:2", *TINY_ENCODER, *more)

    return build


@pytest.fixture
def finetuning(corpus, vocab):
    def build(*more, arch="student_ctc"):
        arguments = [corpus, "--task", "multilingual_speech_to_text", "--criterion", "ctc_attention", "--vocab", vocab]
        return set_up(*arguments, "--arch", arch, *TINY_ENCODER, *more)

    return build
