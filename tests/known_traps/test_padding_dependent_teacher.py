"""HuBERT's features change with the padding of the batch (by up to 1.02 with a group-norm front-end). Ours do not."""

import pytest
import torch

from colld_fairseq.teachers import load_teacher


def test_teacher_targets_of_a_batch_are_those_of_each_utterance_alone(distillation, corpus):
    run = distillation()
    run.task.load_dataset("test")
    dataset = run.task.dataset("test")
    items = [dataset[i] for i in range(5)]
    together = dataset.collater(items)
    lengths = run.model.encoder.output_lengths(together["net_input"]["src_lengths"])
    assert len(set(lengths.tolist())) > 1
    targets, target_lengths = run.task.teachers.first.targets(together, lengths, run.model.prediction_rate_hz)
    for row, item in enumerate(items):
        alone = dataset.collater([item])
        own, own_lengths = run.task.teachers.first.targets(alone, lengths[row : row + 1], run.model.prediction_rate_hz)
        frames = int(own_lengths[0])
        assert frames == target_lengths[row]
        for layer, features in own.items():
            assert torch.allclose(features[0, :frames], targets[layer][row, :frames], atol=1e-4)


def test_the_trap_is_still_there(teacher):
    """transformers' own model, padded as fairseq pads."""
    from transformers import HubertModel

    loaded = load_teacher(teacher, layers=[4])
    model = HubertModel.from_pretrained(teacher.partition(":")[2]).eval()
    torch.manual_seed(0)
    utterance = torch.randn(1, 8000)
    padded = torch.nn.functional.pad(utterance, (0, 8000))
    with torch.no_grad():
        alone = model(utterance).last_hidden_state
        beside = model(padded).last_hidden_state[:, : alone.size(1)]
    assert (alone - beside).abs().max() > 0.05
    ours = [loaded(audio, torch.tensor([8000])).features[4] for audio in (utterance, padded)]
    assert ours[0].shape == ours[1].shape and ours[0].numpy() == pytest.approx(ours[1].numpy(), abs=1e-4)
