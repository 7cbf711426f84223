"""The full-context mode of a chunk-wise student, while it is being trained with chunks."""

import contextlib
from typing import Iterator

import torch
from torch import nn

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.chunks import Chunk
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.modules.encoder_config import EncoderConfig


@contextlib.contextmanager
def whole_context(model: nn.Module, student: StudentEncoder) -> Iterator[None]:
    """For a while the model is in evaluation mode, without gradients, and its student's frames have the whole utterance
    as context. No random number is drawn: training goes on as without it."""
    check_two_modes(student.config)
    training = [module for module in model.modules() if module.training]
    chunk, right = student.chunk, student.right
    model.eval()
    student.chunk, student.right = Chunk(), 0
    try:
        with torch.no_grad():
            yield
    finally:
        student.chunk, student.right = chunk, right
        for module in training:
            module.training = True


def check_two_modes(config: EncoderConfig) -> None:
    """ConfigError unless training draws chunks, and the whole utterance as one of them."""
    if config.context != "chunk" or None not in config.chunk_sizes:
        raise ConfigError(
            "a student learns from its own full context where it has one to learn: train it with --encoder-context"
            " chunk and with full among the --chunk-sizes"
        )
