"""A task and a model that only hand over tensors, for criterions."""

from types import SimpleNamespace

import torch
from torch import nn

from colld_fairseq.models.colld_student import StudentOutput
from colld_fairseq.models.layer_map import LayerPair
from colld_fairseq.teachers.several import Teachers
from colld_fairseq.teachers.source import TeacherSource


def distillation(
    lengths, width=12, pairs=((1, (2,)), (2, (4,))), masked_share=0.6, dtype=torch.float64, frames=None, shared=None
):
    """Random predictions [B, frames, width], targets [B, max(lengths), width] and masks; `lengths` in frames.

    shared: frames that the teacher has, too; default: all.
    """
    shared = torch.tensor(shared or lengths)
    lengths = torch.tensor(lengths)
    frames = frames or int(lengths.max())
    pairs = [LayerPair(student, teachers) for student, teachers in pairs]
    predictions = [torch.randn(len(lengths), frames, width, dtype=dtype) for _ in pairs]
    layers = sorted({layer for pair in pairs for layer in pair.teacher_layers})
    features = {layer: torch.randn(len(lengths), int(lengths.max()), width, dtype=dtype) for layer in layers}
    valid = torch.arange(frames) < lengths[:, None]
    mask = None if masked_share is None else (torch.rand(len(lengths), frames) < masked_share) & valid

    class Model(nn.Module):
        prediction_rate_hz = 50.0
        heads = SimpleNamespace(adapters={})

        def forward(self, src_tokens, src_lengths):
            return StudentOutput(predictions, lengths, mask)

    model = Model()
    model.pairs = pairs
    teachers = Teachers([TeacherSource("", "hf:none")])
    teachers.first.targets = lambda sample, lengths, rate, rows: (features, shared)
    task = SimpleNamespace(teachers=teachers, combination="sum")
    sample = {
        "net_input": {"src_tokens": torch.zeros(len(lengths), frames, 80), "src_lengths": lengths},
        "ntokens": int(lengths.sum()),
        "nsentences": len(lengths),
        "audio_seconds": float(lengths.sum()) / 50,
    }
    return SimpleNamespace(
        model=model,
        task=task,
        sample=sample,
        predictions=predictions,
        features=features,
        mask=mask,
        lengths=lengths,
    )
