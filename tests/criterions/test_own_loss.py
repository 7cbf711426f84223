"""The loss of docs/own_loss.md, as it stands there: registered, against loops over frames, and in a training step."""

import importlib
import re
import sys

import pytest
import torch
from commands import REPOSITORY, TINY_ENCODER
from stubs import distillation as stub
from task_setup import set_up

PAGE = (REPOSITORY / "docs" / "own_loss.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The module that the page shows."""
    folder = tmp_path_factory.mktemp("plugin")
    for name, block in re.findall(r"^`my_losses/(\w+\.py)`.*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        (folder / "my_losses").mkdir(exist_ok=True)
        (folder / "my_losses" / name).write_text(block, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield importlib.import_module("my_losses").similarity
    sys.path.remove(str(folder))


def expected(predictions, targets, lengths):
    total = 0.0
    for p, z, length in zip(predictions, targets, lengths):
        for t in range(length):
            for s in range(length):
                student, teacher = (float(torch.cosine_similarity(x[t], x[s], dim=0)) for x in (p, z))
                total += (student - teacher) ** 2 / length
    return total


def test_it_is_what_the_page_says(page):
    torch.manual_seed(3)
    lengths = [5, 3]
    given = stub(lengths, pairs=((1, (2,)),), masked_share=None, dtype=torch.float32)
    criterion = page.SimilarityCriterion(page.SimilarityConfig(similarity_weight=2.0), given.task)
    loss, size, log = criterion(given.model, given.sample)
    wanted = expected(given.predictions[0], given.features[2], lengths)
    assert float(loss) == pytest.approx(2 * wanted, rel=1e-4) and int(size) == sum(lengths)
    assert float(log["similarity"]) == pytest.approx(wanted, rel=1e-4)


def test_it_trains(page, corpus, teacher):
    arguments = [corpus, "--task", "speech_distillation", "--teacher", teacher, "--criterion", "similarity"]
    run = set_up(*arguments, "--arch", "colld_student", "--layer-map", "sparse:2", *TINY_ENCODER)
    run.task.load_dataset("train")
    dataset = run.task.dataset("train")
    sample = dataset.collater([dataset[index] for index in range(2)])
    loss, size, _ = run.criterion(run.model.train(), sample)
    (loss / size).backward()
    assert torch.isfinite(loss) and any(p.grad is not None and p.grad.abs().sum() > 0 for p in run.model.parameters())
