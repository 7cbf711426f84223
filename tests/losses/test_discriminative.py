import math

import pytest
import torch

from colld_fairseq.losses import cosine_logits, discriminative_loss

B, T, C, E = 3, 7, 11, 5


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def inputs(dtype=torch.float64):
    return torch.randn(B, T, C, dtype=dtype), 3 * torch.randn(B, T, C, dtype=dtype), torch.rand(B, T) < 0.6


def softmax(logits):
    weights = [math.exp(a) for a in logits]
    return [weight / sum(weights) for weight in weights]


def divergence(student, teacher, hard):
    """The formula for one frame, from plain Python floats; also whether the best classes agree."""
    q_s, q_t = softmax(student), softmax(teacher)
    best = q_t.index(max(q_t))
    loss = -math.log(q_s[best]) if hard else sum(q * (math.log(q) - math.log(p)) for q, p in zip(q_t, q_s))
    return loss, q_s.index(max(q_s)) == best


def test_cosine_logits_equal_brute_force():
    x, embeddings = torch.randn(2, 3, E, dtype=torch.float64), torch.randn(C, E, dtype=torch.float64)
    logits = cosine_logits(x, embeddings, 0.1)
    for i, j in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        for c in range(C):
            v, e = x[i, j].tolist(), embeddings[c].tolist()
            cosine = sum(a * b for a, b in zip(v, e)) / (math.hypot(*v) * math.hypot(*e))
            assert logits[i, j, c].item() == pytest.approx(cosine / 0.1, rel=1e-9)


@pytest.mark.parametrize("hard", [False, True])
def test_equals_brute_force(hard):
    student, teacher, mask = inputs()
    expected = [divergence(student[u, t].tolist(), teacher[u, t].tolist(), hard) for u, t in mask.nonzero().tolist()]
    loss_sum, count, agree = discriminative_loss(student, teacher, mask, hard)
    assert loss_sum.item() == pytest.approx(sum(loss for loss, _ in expected), rel=1e-9)
    assert int(count) == len(expected) and int(agree) == sum(right for _, right in expected)
    assert 0 < agree < count


def test_a_student_like_its_teacher_has_no_divergence():
    """Logits of the same distribution need not be the same numbers."""
    _, teacher, mask = inputs()
    loss_sum, count, agree = discriminative_loss(teacher + torch.randn(B, T, 1), teacher, mask)
    assert loss_sum.item() == pytest.approx(0.0, abs=1e-12) and agree == count


def test_undecided_student_against_a_decided_teacher():
    """KL and cross-entropy both become log C per frame."""
    teacher = torch.zeros(1, T, C).index_fill(2, torch.tensor([4]), 1000.0)
    mask = torch.ones(1, T, dtype=torch.bool)
    for hard in (False, True):
        loss = discriminative_loss(torch.zeros(1, T, C), teacher, mask, hard).loss_sum
        assert loss.item() == pytest.approx(T * math.log(C), rel=1e-6)


@pytest.mark.parametrize("hard", [False, True])
def test_gradcheck(hard):
    student, teacher, mask = inputs()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: discriminative_loss(s, teacher, mask, hard).loss_sum, student)
    if not hard:
        teacher.requires_grad_()
        assert torch.autograd.gradcheck(lambda t: discriminative_loss(student, t, mask).loss_sum, teacher)


def test_gradcheck_of_the_cosines():
    x = torch.randn(2, 3, E, dtype=torch.float64, requires_grad=True)
    embeddings = torch.randn(C, E, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, e: cosine_logits(x, e, 0.3), (x, embeddings))


@pytest.mark.parametrize("hard", [False, True])
def test_frames_outside_the_mask_never_matter(hard):
    student, teacher, mask = inputs()
    before = discriminative_loss(student, teacher, mask, hard)
    outside = ~mask[..., None]
    student = student.masked_fill(outside, float("nan")).requires_grad_()
    after = discriminative_loss(student, teacher.masked_fill(outside, float("inf")), mask, hard)
    assert after == before
    after.loss_sum.backward()
    assert student.grad[~mask].eq(0).all() and student.grad[mask].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_give_float32(dtype):
    student, teacher, mask = inputs(dtype)
    out = discriminative_loss(student, teacher, mask)
    assert out.loss_sum.dtype == torch.float32
    assert out.loss_sum == discriminative_loss(student.float(), teacher.float(), mask).loss_sum
    embeddings = torch.randn(C, C)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = cosine_logits(student, embeddings, 0.1)
    assert logits.dtype == torch.float32 and torch.equal(logits, cosine_logits(student.float(), embeddings, 0.1))


def test_empty_mask_gives_a_zero_with_gradient():
    student, teacher, mask = inputs()
    student.requires_grad_()
    out = discriminative_loss(student, teacher, torch.zeros_like(mask))
    assert (out.loss_sum.item(), out.count.item(), out.agree.item()) == (0.0, 0, 0)
    out.loss_sum.backward()
    assert student.grad.eq(0).all()


def test_bad_shapes():
    student, teacher, mask = inputs()
    with pytest.raises(ValueError, match="must be"):
        discriminative_loss(student, teacher[..., :-1], mask)
    with pytest.raises(ValueError, match="must be"):
        discriminative_loss(student, teacher, mask[:, :-1])
