"""Teachers that the student encoder can express exactly: HuBERT, wav2vec 2.0, and encoders of this project.

Its modules leave padded frames out of the computation and have fast paths on a CPU; the features are those of
transformers' modules to 1e-4 a layer.
"""

from typing import Any, Dict

import torch
from torch import Tensor

from colld_fairseq.checkpoints.encoder import EncoderCheckpoint
from colld_fairseq.data.datasets import pad
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.modules.cpu import plain_operators
from colld_fairseq.teachers.base import Teacher, normalized


class EncoderTeacher(Teacher):
    """An encoder, cut to the blocks that are needed.

    Args:
        checkpoint: with the weights of the first max(layers) blocks, or more.
    """

    def __init__(self, checkpoint: EncoderCheckpoint, **description: Any):
        config = checkpoint.config
        blocks = min(max(description["layers"]), config.layers)
        encoder = checkpoint.build(blocks, description.get("dtype", torch.float32))
        super().__init__(
            encoder,
            num_layers=config.layers,
            width=encoder.width,
            frame_rate_hz=encoder.frame_rate_hz,
            has_output=config.norm_first,  # with a norm behind the last block, which others do not have
            **description,
        )
        self.input = StudentInput(config.input)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return self.module.output_lengths(self.input.lengths(lengths))

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Dict[int, Tensor]:
        if self.input.config.kind == "fbank":
            arrays = [self.input(row[:size].numpy()) for row, size in zip(waveforms.cpu(), lengths.tolist())]
            source, lengths = (tensor.to(waveforms.device) for tensor in pad(arrays))
        else:
            source = normalized(waveforms, lengths, self.input.config)
        ragged = int(lengths.min()) < source.size(1)
        lengths = lengths if ragged else None
        return self.module(source.to(self.dtype), lengths, layers=self.layers, kind=self.kind).features

    def extract_with_padding(self, waveforms: Tensor, lengths: Tensor) -> Dict[int, Tensor]:
        with plain_operators():  # the fast paths leave padded frames out
            return self.extract(waveforms, lengths)
