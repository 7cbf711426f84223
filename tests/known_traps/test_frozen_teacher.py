"""A teacher inside the model would be saved, averaged, put into train mode and halved. Ours is no part of it."""

import pytest
import torch
from commands import PACKAGE, TINY_ENCODER, TRAINING, call


def train(corpus, teacher, folder, *more):
    call(
        "train", corpus, "--user-dir", PACKAGE, "--task", "speech_distillation", "--teacher", teacher,
        *["--arch", "colld_student", *TINY_ENCODER, "--criterion", "colld", "--layer-map", "sparse:2"],
        *[*TRAINING, "--max-update", "2", "--save-dir", folder, *more],
    )  # fmt: skip
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)


@pytest.fixture(scope="module")
def checkpoint(corpus, teacher, tmp_path_factory):
    return train(corpus, teacher, tmp_path_factory.mktemp("ema"), "--store-ema", "--ema-decay", "0.9")


def sizes(tree):
    """Numbers of elements of every tensor anywhere in a checkpoint."""
    if torch.is_tensor(tree):
        yield tree.numel()
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from sizes(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from sizes(value)


def test_not_in_the_checkpoint_nor_in_ema(checkpoint):
    names = set(checkpoint["model"])
    assert names and all(name.startswith(("encoder.", "heads.")) for name in names)
    averaged = checkpoint["extra_state"]["ema"]
    assert set(averaged) == names
    assert any(not torch.equal(averaged[name], checkpoint["model"][name]) for name in names)


def test_nothing_else_carries_its_weights(checkpoint):
    """All tensors together are those of the student: weights, average, and two moments of Adam."""
    student = sum(value.numel() for value in checkpoint["model"].values())
    assert sum(sizes(checkpoint)) <= 4 * student + 100


def test_never_in_train_mode_and_without_gradient(distillation):
    run = distillation()
    run.task.load_dataset("train")
    dataset = run.task.dataset("train")
    batch = dataset.collater([dataset[0], dataset[1]])
    optimizer = torch.optim.SGD([p for p in run.model.parameters() if p.requires_grad], lr=0.1)
    optimizer.backward = lambda loss: loss.backward()
    module = run.task.teachers.first.teacher.module
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.train()  # even if somebody did this
    run.task.train_step(batch, run.model, run.criterion, optimizer, update_num=0)
    optimizer.step()
    assert run.model.training and not any(part.training for part in module.modules())
    assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    teachers = {id(p) for p in module.parameters()}
    assert not teachers & {id(p) for p in (*run.model.parameters(), *run.criterion.parameters())}
