"""Teachers that the student encoder can express exactly: HuBERT and wav2vec 2.0, run on its modules.

Those leave padded frames out of the computation and have fast paths on a CPU; the features are those of
transformers' modules to 1e-4 a layer.
"""

from typing import Dict, Optional

import torch
from torch import Tensor

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.checkpoint_configs import config_from_hf
from colld_fairseq.modules.cpu import plain_operators
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.modules.initialise import map_hf_wav2vec_family
from colld_fairseq.teachers.base import HF_VARIANCE_FLOOR, Teacher, unit_variance

EXACT_FAMILIES = ("hubert", "wav2vec2")  # WavLM's gated position bias has no place in the student encoder


def as_student_encoder(model: torch.nn.Module) -> Optional[StudentEncoder]:
    """A student encoder with the weights of transformers' `model`, or None where it would compute something else."""
    config = model.config.to_dict()
    if config["model_type"] not in EXACT_FAMILIES:
        return None
    try:
        encoder = StudentEncoder(config_from_hf(config))
        encoder.load_state_dict(map_hf_wav2vec_family(model.state_dict(), encoder.config))
    except ConfigError:  # names a variant that the student encoder does not have
        return None
    return encoder


class EncoderTeacher(Teacher):
    """A HuBERT or wav2vec 2.0 encoder, cut to the blocks that are needed.

    Args:
        encoder: as :func:`as_student_encoder` makes it.
        normalise: bring each clip to mean 0 and variance 1 first, as this model was trained.
        variance_floor: added to that variance.
    """

    def __init__(
        self,
        encoder: StudentEncoder,
        *,
        normalise: bool,
        variance_floor: float = HF_VARIANCE_FLOOR,
        **description,
    ):
        super().__init__(encoder, width=encoder.width, frame_rate_hz=encoder.frame_rate_hz, **description)
        del encoder.blocks[max(self.layers) :]
        self.normalise, self.variance_floor = normalise, variance_floor

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return self.module.output_lengths(lengths)

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Dict[int, Tensor]:
        if self.normalise:
            waveforms = unit_variance(waveforms, lengths, self.variance_floor)
        ragged = int(lengths.min()) < waveforms.size(1)
        lengths = lengths if ragged else None
        return self.module(waveforms.to(self.dtype), lengths, layers=self.layers, kind=self.kind).features

    def extract_with_padding(self, waveforms: Tensor, lengths: Tensor) -> Dict[int, Tensor]:
        with plain_operators():  # the fast paths leave padded frames out
            return self.extract(waveforms, lengths)
