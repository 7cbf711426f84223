"""A trained recogniser as the teacher of another one's CTC layer."""

from typing import Tuple

import torch
from torch import Tensor, nn

from colld_fairseq.checkpoints.names_colld import read_model
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.errors import ConfigError
from colld_fairseq.models.encoder_options import known_options
from colld_fairseq.models.finetune_encoder import CtcModel, FinetuneEncoder, FinetuneOptions, build_student
from colld_fairseq.teachers.load_transducer import check_vocabulary


class _EncoderAndCtc(CtcModel, nn.Module):
    """What CTC needs of a model."""

    def __init__(self, encoder: FinetuneEncoder, ctc: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.ctc = encoder, ctc


class CtcTeacher:
    """A frozen encoder with its CTC layer. It is no module of its own: in no checkpoint, never trained, never in train
    mode.

    network: a `CtcModel`; student_input: what makes its input of a waveform; path: of its checkpoint.
    """

    def __init__(self, network: nn.Module, student_input: StudentInput, path: str) -> None:
        self.network = network.eval().requires_grad_(False)
        self.student_input, self.path = student_input, path

    @torch.no_grad()
    def __call__(self, src_tokens: Tensor, src_lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Log-probabilities float32 [B, T, V] and lengths [B]; src_tokens is of any dtype."""
        self.network.to(src_tokens.device)
        dtype = next(self.network.parameters()).dtype
        with torch.autocast(src_tokens.device.type, enabled=False):
            return self.network.get_ctc_log_probs(src_tokens.to(dtype), src_lengths)


def load_ctc_teacher(path: str, task) -> CtcTeacher:
    """The encoder and the CTC layer of a checkpoint, for students of `task`, whose vocabulary it must have.

    One that was trained with chunks teaches with the longest context of its training, or that of its --eval-chunk.

    Raises ConfigError when the file is missing or has no CTC layer, its vocabulary is another, or it is a model with
    added languages, whose adapters this teacher would leave out.
    """
    saved = read_model(path)
    if "ctc.weight" not in saved.weights:
        raise ConfigError(f"--teacher-ctc {path}: no CTC layer; train one, as --arch student_ctc has")
    if saved.model.get("added_parts"):
        raise ConfigError(f"--teacher-ctc {path}: a model with added languages is no teacher: give a student_ctc")
    check_vocabulary(saved, task, path, "--teacher-ctc", len(saved.weights["ctc.weight"]))
    cfg = FinetuneOptions(**known_options(saved.model, FinetuneOptions))
    encoder = FinetuneEncoder(cfg, build_student(cfg, task))
    network = _EncoderAndCtc(encoder, nn.Linear(encoder.student.width, len(saved.weights["ctc.weight"])))
    wanted = network.state_dict()
    network.load_state_dict({name: value for name, value in saved.weights.items() if name in wanted})
    return CtcTeacher(network, StudentInput(saved.config.input), path)
