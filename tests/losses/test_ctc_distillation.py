"""Distillation with a bounded delay against sums in plain Python, and its gradient against differences."""

import pytest
import torch

from colld_fairseq.losses.ctc_distillation import delayed_divergence

LENGTHS, TEACHER_LENGTHS, V = torch.tensor([7, 5, 0, 1]), torch.tensor([6, 7, 2, 2]), 4


def case(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(4, frames, V, generator=generator, dtype=torch.double) for frames in (7, 7))


def by_hand(student, teacher, delay, choice):
    """The definition, pair by pair."""
    p, q = teacher.softmax(-1), student.softmax(-1)
    sums = []
    for b, (mine, theirs) in enumerate(zip(LENGTHS.tolist(), TEACHER_LENGTHS.tolist())):
        shared = min(mine, theirs)

        def d(t, s):
            return float((p[b, t] * (p[b, t] / q[b, t + s]).log()).sum())

        if choice == "frame":
            sums.append(sum(min(d(t, s) for s in range(delay + 1) if t + s < mine) for t in range(shared)))
            continue
        rows = [[d(t, s) for t in range(shared) if t + s < mine] for s in range(delay + 1)]
        sums.append(shared * min((sum(row) / len(row) for row in rows if row), default=0.0))
    return sums


@pytest.mark.parametrize("choice", ["frame", "utterance"])
@pytest.mark.parametrize("delay", [0, 1, 3, 9])
def test_it_is_the_definition(delay, choice):
    for seed in range(3):
        student, teacher = case(seed)
        losses, counts = delayed_divergence(student, teacher, LENGTHS, TEACHER_LENGTHS, delay, choice)
        assert losses.tolist() == pytest.approx(by_hand(student, teacher, delay, choice), rel=1e-9, abs=1e-12)
        assert counts.tolist() == [6, 5, 0, 1]
        padded = delayed_divergence(
            torch.nn.functional.pad(student, (0, 0, 0, 3), value=5.0),
            torch.nn.functional.pad(teacher, (0, 0, 0, 2), value=-5.0),
            LENGTHS,
            TEACHER_LENGTHS,
            delay,
            choice,
        )
        assert padded.losses.tolist() == pytest.approx(losses.tolist())


@pytest.mark.parametrize("choice", ["frame", "utterance"])
@pytest.mark.parametrize("delay", [0, 2])
def test_gradient(delay, choice):
    student, teacher = case(1)
    student.requires_grad_()
    teacher.requires_grad_()

    def loss(student):
        return delayed_divergence(student, teacher, LENGTHS, TEACHER_LENGTHS, delay, choice).losses.sum()

    assert torch.autograd.gradcheck(loss, student)
    loss(student).backward()
    assert teacher.grad is None and (student.grad[2] == 0).all() and (student.grad[1, 5:] == 0).all()


def test_a_student_that_is_late_within_the_bound_loses_nothing():
    """By a delay of 2 the same posteriors: no loss with D = 2 but for the last frames, which have no partner."""
    generator = torch.Generator().manual_seed(3)
    teacher = 4 * torch.randn(1, 12, V, generator=generator)
    student = torch.cat((torch.zeros(1, 2, V), teacher[:, :-2]), dim=1)
    length = torch.tensor([12])
    frame, utterance = (
        [float(delayed_divergence(student, teacher, length, length, delay, choice).losses) for delay in (0, 1, 2, 4)]
        for choice in ("frame", "utterance")
    )
    assert utterance[2] == pytest.approx(0, abs=1e-4) and utterance[3] == pytest.approx(0, abs=1e-4)
    assert min(utterance[:2]) > 1 and frame[0] == pytest.approx(utterance[0]) and frame[0] > frame[1] > frame[2]
    cut = delayed_divergence(student, teacher, length, length - 2, 2, "frame")
    assert float(cut.losses) == pytest.approx(0, abs=1e-4)


def test_half_precision_and_no_utterance_at_all():
    student, teacher = (one.half().requires_grad_() for one in case(2))
    losses = delayed_divergence(student, teacher, LENGTHS, TEACHER_LENGTHS, 1).losses
    assert losses.dtype == torch.float32 and losses.isfinite().all()
    none = torch.zeros(0, dtype=torch.int64)
    assert len(delayed_divergence(torch.zeros(0, 3, V), torch.zeros(0, 3, V), none, none, 1).losses) == 0
    certain = torch.tensor([[[80.0, -80.0, -80.0, -300.0]]])
    one = torch.tensor([1])
    assert float(delayed_divergence(certain, certain, one, one).losses) == 0
