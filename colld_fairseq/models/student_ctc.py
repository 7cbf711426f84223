"""Model `student_ctc`: student encoder and a CTC output layer."""

from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from colld_fairseq.models.encoder_options import register_presets
from colld_fairseq.models.finetune_encoder import CtcModel, FinetuneEncoder, FinetuneOptions, build_student


@register_model("student_ctc", dataclass=FinetuneOptions)
class StudentCtc(CtcModel, BaseFairseqModel):
    """Token 0 (`<s>`) of the dictionary is the blank."""

    def __init__(self, encoder: FinetuneEncoder, vocabulary_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.ctc = nn.Linear(encoder.student.width, vocabulary_size)

    @classmethod
    def build_model(cls, cfg: FinetuneOptions, task) -> "StudentCtc":
        return cls(FinetuneEncoder(cfg, build_student(cfg, task)), len(task.target_dictionary))

    def forward(self, src_tokens: Tensor, src_lengths: Tensor, **unused):
        """{"ctc_logits": [B, T, V], "ctc_lengths": [B]}"""
        encoded = self.encoder.encode(src_tokens, src_lengths)
        return {"ctc_logits": self.ctc(encoded.x), "ctc_lengths": encoded.lengths}


register_presets("student_ctc", "base", "small", "tiny")
