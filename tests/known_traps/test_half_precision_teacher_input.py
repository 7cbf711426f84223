"""--fp16 and --bf16 round every float32 tensor of a batch, the teacher's waveforms too, unless they are float64."""

import pytest
import torch
from fairseq.trainer import Trainer


@pytest.mark.parametrize("precision, dtype", [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_teacher_waveforms_survive_the_trainer(precision, dtype, distillation):
    run = distillation("--cpu")
    run.cfg.common[precision] = run.cfg.common.on_cpu_convert_precision = True
    run.task.load_dataset("test")
    dataset = run.task.dataset("test")
    batch = dataset.collater([dataset[0], dataset[1]])
    trainer = Trainer(run.cfg, run.task, run.model, run.criterion)
    prepared, _ = trainer._prepare_sample(batch)
    assert prepared["net_input"]["src_tokens"].dtype == dtype
    waveforms = prepared["teacher_input"]["waveforms"]
    assert waveforms.dtype == torch.float64 and torch.equal(waveforms, batch["teacher_input"]["waveforms"])
    output = run.task.teachers.first.teacher(**prepared["teacher_input"])
    assert all(features.dtype == torch.float32 for features in output.features.values())
    expected = run.task.teachers.first.teacher(**batch["teacher_input"])
    assert all(torch.equal(output.features[layer], expected.features[layer]) for layer in output.features)
