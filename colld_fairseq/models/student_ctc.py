"""Model `student_ctc`: student encoder and a CTC output layer."""

from dataclasses import dataclass

import torch
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from colld_fairseq.models.encoder_options import register_presets
from colld_fairseq.models.finetune_encoder import FinetuneEncoder, FinetuneOptions, build_student


@dataclass
class StudentCtcConfig(FinetuneOptions):
    pass


@register_model("student_ctc", dataclass=StudentCtcConfig)
class StudentCtc(BaseFairseqModel):
    """Token 0 (`<s>`) of the dictionary is the blank."""

    def __init__(self, encoder: FinetuneEncoder, vocabulary_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.ctc = nn.Linear(encoder.student.width, vocabulary_size)

    @classmethod
    def build_model(cls, cfg: StudentCtcConfig, task) -> "StudentCtc":
        return cls(FinetuneEncoder(cfg, build_student(cfg, task)), len(task.target_dictionary))

    def set_num_updates(self, num_updates: int) -> None:
        super().set_num_updates(num_updates)
        self.encoder.set_num_updates(num_updates)

    def forward(self, src_tokens: Tensor, src_lengths: Tensor, **unused):
        """{"ctc_logits": [B, T, V], "ctc_lengths": [B]}"""
        encoded = self.encoder.encode(src_tokens, src_lengths)
        return {"ctc_logits": self.ctc(encoded.x), "ctc_lengths": encoded.lengths}

    def get_ctc_log_probs(self, src_tokens: Tensor, src_lengths: Tensor):
        """Log-probabilities float32 [B, T, V] and lengths [B]."""
        output = self(src_tokens, src_lengths)
        return torch.log_softmax(output["ctc_logits"].float(), dim=-1), output["ctc_lengths"]

    def max_positions(self):
        return None


register_presets("student_ctc", "base", "small", "tiny")
