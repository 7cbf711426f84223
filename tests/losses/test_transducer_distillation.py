"""Distillation of transducers against node-by-node arithmetic, walks in plain Python, and autograd."""

import pytest
import torch

from colld_fairseq.losses import transducer_arcs
from colld_fairseq.losses.transducer import transducer_loss
from colld_fairseq.losses.transducer_arcs import LogitLayout
from colld_fairseq.losses.transducer_distillation import (
    Nodes,
    best_path,
    lattice_divergence,
    node_divergence,
    path_loss,
    three_class_loss,
)

FRAMES, LABELS, V = [5, 0, 3, 12], [2, 3, 0, 4], 6
TEACHER_FRAMES = [7, 1, 2, 12]


def walk(is_label, frames, labels, topology):
    """The definition, one step at a time: is_label[t][u] is the teacher's best symbol no blank."""
    t = u = 0
    path = []
    while t < frames:
        path.append((t, u))
        if u < labels and is_label[t][u]:
            u += 1
            t += topology == "modified"
        else:
            t += 1
    return path


@pytest.mark.parametrize("topology", ["regular", "modified"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.8, 1.0])
def test_path_is_the_walk(topology, share):
    generator = torch.Generator().manual_seed(int(100 * share))
    frames, labels = torch.tensor([*FRAMES, 30, 1]), torch.tensor([*LABELS, 7, 7])
    table = torch.rand(len(frames), 30, 8, generator=generator) < share
    asked = []

    def emits(nodes):
        asked.append([part.flatten() for part in torch.broadcast_tensors(*nodes)])
        return table[nodes]

    result = list(zip(*(part.tolist() for part in best_path(emits, frames, labels, topology))))
    expected = [
        (m, t, u) for m in range(len(frames)) for t, u in walk(table[m], int(frames[m]), int(labels[m]), topology)
    ]
    assert sorted(result) == sorted(expected) and len(set(result)) == len(result)
    text, frame, label = (torch.cat(parts) for parts in zip(*asked))
    assert (frame < frames[text]).all() and (label < labels[text]).all()  # never asked for what is not there


def test_path_of_no_text_at_all():
    none = torch.zeros(0, dtype=torch.int64)
    assert all(len(part) == 0 for part in best_path(lambda nodes: None, none, none))


def kl(teacher, student, temperature=1.0):
    """Of one node, from probabilities."""
    p, q = ((logits.double() / temperature).softmax(-1) for logits in (teacher, student))
    return (p * (p / q).log()).sum()


def test_divergence_of_nodes():
    """By hand; 0 where they agree; the gradient is that of the published cross-entropy."""
    torch.manual_seed(0)
    student, teacher = torch.randn(4, V, dtype=torch.double, requires_grad=True), torch.randn(4, V).double()
    result = node_divergence(student, teacher, 2.0)
    assert torch.allclose(result, torch.stack([kl(t, s, 2.0) for s, t in zip(student, teacher)]))
    assert torch.allclose(node_divergence(teacher, teacher + 3), torch.zeros(4).double(), atol=1e-12)
    (grad,) = torch.autograd.grad(result.sum(), student)
    cross_entropy = -((teacher / 2).softmax(-1) * (student / 2).log_softmax(-1)).sum()
    assert torch.allclose(grad, torch.autograd.grad(cross_entropy, student)[0])
    assert torch.autograd.gradcheck(lambda x: node_divergence(x, teacher, 0.7), student)
    extreme = torch.tensor([1e4, -1e4, 0.0])
    assert torch.isfinite(node_divergence(extreme, extreme.flip(0)))
    assert node_divergence(torch.randn(3).half(), torch.randn(3).half()).dtype == torch.float32


def test_window_takes_the_least_of_its_own_node():
    """Every node against its own frames only, those that the student has; nodes with none do not count."""
    torch.manual_seed(1)
    student = torch.randn(5, 3, V, dtype=torch.double, requires_grad=True)
    teacher = torch.randn(5, V, dtype=torch.double)
    present = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]]).bool()
    transcripts = torch.tensor([0, 0, 2, 2, 2])
    expected, least = [0.0, 0.0, 0.0], []
    for p, transcript in enumerate(transcripts.tolist()):
        values = {w: kl(teacher[p], student[p, w], 1.5) for w in range(3) if present[p, w]}
        if values:
            least.append((p, min(values, key=values.get)))
            expected[transcript] = expected[transcript] + values[least[-1][1]]
    losses, counts = path_loss(student, teacher, present, transcripts, 3, temperature=1.5)
    assert counts.tolist() == [2, 0, 2]
    assert losses.tolist() == pytest.approx([float(value) for value in expected])
    (grad,) = torch.autograd.grad(losses.sum(), student)
    assert torch.allclose(grad, torch.autograd.grad(sum(expected), student)[0])
    assert [tuple(index) for index in (grad.abs().sum(-1) > 0).nonzero().tolist()] == least
    assert torch.autograd.gradcheck(lambda x: path_loss(x, teacher, present, transcripts, 3).losses, student)


def test_no_node_at_all():
    empty = torch.zeros(0, 1, V, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    losses, counts = path_loss(empty, torch.zeros(0, V), torch.zeros(0, 1).bool(), none, 2)
    assert losses.tolist() == [0, 0] and counts.tolist() == [0, 0]
    losses.sum().backward()


def lattices(dtype=torch.double):
    """Packed student logits and each text's teacher logits [T~, U+1, V]."""
    torch.manual_seed(3)
    widths = [u + 1 for u in LABELS]
    rows = sum(t * w for t, w in zip(FRAMES, widths))
    student = torch.randn(rows, V, dtype=dtype, requires_grad=True)
    teacher = [torch.randn(t, w, V, dtype=dtype) for t, w in zip(TEACHER_FRAMES, widths)]
    labels = torch.randint(1, V, (len(FRAMES), max(LABELS)))
    return student, teacher, labels, LogitLayout(FRAMES, widths, packed=True)


def by_node(shift):
    """(text, student frame, label) of the nodes that both have."""
    for b, (frames, known, labels) in enumerate(zip(FRAMES, TEACHER_FRAMES, LABELS)):
        yield from ((b, t, u) for t in range(shift, min(frames, known + shift)) for u in range(labels + 1))


def asker(teacher):
    def logits(nodes):
        text, frame, label = torch.broadcast_tensors(*nodes)
        return teacher[int(text.flatten()[0])][frame, label]

    return logits


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("piece", [1, 10**6])
def test_full_lattice(shift, piece, monkeypatch):
    monkeypatch.setattr(transducer_arcs, "PIECE_CPU", piece)
    student, teacher, _, layout = lattices()
    blocks = layout.blocks(student)
    expected = [student.new_zeros(())] * len(FRAMES)
    counted = [0] * len(FRAMES)
    for b, t, u in by_node(shift):
        expected[b] = expected[b] + kl(teacher[b][t - shift, u], blocks[b][t, u], 2.0)
        counted[b] += 1
    options = dict(shift=shift, temperature=2.0)
    losses, counts = lattice_divergence(student, layout, asker(teacher), TEACHER_FRAMES, **options)
    assert counts.tolist() == counted
    assert losses.tolist() == pytest.approx([float(value) for value in expected])
    weights = torch.tensor([0.3, 1.0, 2.0, 0.7]).double()  # of an n-best list, say
    (grad,) = torch.autograd.grad((weights * losses).sum(), student)
    wanted = sum(weight * value for weight, value in zip(weights, expected))
    assert torch.allclose(grad, torch.autograd.grad(wanted, student)[0])


def test_full_lattice_of_a_pruned_range():
    """Only the nodes of the range, which are somewhere else at every frame."""
    torch.manual_seed(4)
    student = torch.randn(2, 4, 2, V, dtype=torch.double, requires_grad=True)
    ranges = torch.tensor([[0, 1, 1, 2], [0, 0, 1, 1]])[..., None] + torch.arange(2)
    teacher = [torch.randn(4, 4, V, dtype=torch.double) for _ in range(2)]
    layout = LogitLayout([4, 3], [2, 2], packed=False)
    losses, counts = lattice_divergence(student, layout, asker(teacher), [4, 4], ranges=ranges, shift=1)
    nodes = [(b, t, s) for b, last in ((0, 4), (1, 3)) for t in range(1, last) for s in range(2)]
    values = [kl(teacher[b][t - 1, int(ranges[b, t, s])], student[b, t, s]) for b, t, s in nodes]
    assert counts.tolist() == [6, 4] and float(losses.sum()) == pytest.approx(float(sum(values)))
    (grad,) = torch.autograd.grad(losses.sum(), student)
    assert torch.allclose(grad, torch.autograd.grad(sum(values), student)[0])


def test_full_lattice_beside_the_transducer_loss():
    """Which writes its gradient into the logits; and without gradient nothing is kept for one."""
    student, teacher, labels, layout = lattices(torch.float32)
    with_frames = torch.tensor([0, 2, 3])
    lengths = torch.tensor(FRAMES)[with_frames], torch.tensor(LABELS)[with_frames]

    def total(logits, overwrite):
        rnnt = transducer_loss(logits, labels[with_frames], *lengths, overwrite_logits=overwrite).loss_sum
        kd = lattice_divergence(logits, layout, asker(teacher), TEACHER_FRAMES).losses.sum()
        return rnnt + 0.5 * kd

    (expected,) = torch.autograd.grad(total(student, False), student)
    copy = student.detach().clone().requires_grad_()
    (result,) = torch.autograd.grad(total(copy * 1.0, True), copy)
    assert torch.allclose(result, expected, atol=1e-6)
    with torch.no_grad():
        assert not total(student, False).requires_grad


def classes(logits, label):
    """Probabilities of blank, label and the rest, the rest summed symbol by symbol."""
    p = logits.softmax(-1)
    rest = sum(p[k] for k in range(1, V) if k != label)
    return torch.stack([p[0], p[label], rest])


def test_three_classes():
    """Through the arcs of the transducer's own loss; to 1e-6 of sums over the symbols, and the same gradient."""
    student, teacher, labels, layout = lattices()
    with_frames = torch.tensor([0, 2, 3])  # the loss has no utterance without frames
    lengths = torch.tensor(FRAMES)[with_frames], torch.tensor(LABELS)[with_frames]
    nodes = [node for node in by_node(1) if node[2] < LABELS[node[0]]]
    text, frame, label = torch.tensor(nodes).T
    row = torch.tensor([0, -1, 1, 2])[text]
    log_probs = [teacher[b][t - 1, u].log_softmax(-1) for b, t, u in nodes]
    theirs = (
        torch.stack([log_p[0] for log_p in log_probs]),
        torch.stack([log_p[labels[b, u]] for log_p, (b, _, u) in zip(log_probs, nodes)]),
    )

    def loss_of(logits):
        arcs = transducer_loss(logits, labels[with_frames], *lengths)
        mine = arcs.blank_arcs[row, frame, label], arcs.label_arcs[row, frame, label]
        return three_class_loss(*mine, *theirs, Nodes(text, frame, label), 4)

    losses, counts = loss_of(student)
    blocks = layout.blocks(student)
    expected = [student.new_zeros(())] * 4
    for b, t, u in nodes:
        p, q = classes(teacher[b][t - 1, u], labels[b, u]), classes(blocks[b][t, u], labels[b, u])
        expected[b] = expected[b] + (p * (p / q).log()).sum()
    assert counts.tolist() == [4 * 2, 0, 0, 11 * 4]
    assert losses.tolist() == pytest.approx([float(value) for value in expected], abs=1e-5)
    (grad,) = torch.autograd.grad(losses.sum(), student)
    assert torch.allclose(grad, torch.autograd.grad(sum(expected), student)[0], atol=1e-5)
    few = Nodes(*(part[:5] for part in (text, frame, label)))
    arcs = torch.randn(3, 5, dtype=torch.double).log_softmax(0)[:2].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: three_class_loss(*x, theirs[0][:5], theirs[1][:5], few, 4).losses, arcs)


def test_three_classes_without_a_rest():
    """Where nothing is left for the rest, or all of it, loss and gradient stay finite."""
    certain = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [-1e4, -1e4], [0.0, 0.0]]).requires_grad_()
    blank, label = certain.log_softmax(-1).unbind(1)
    teacher = torch.tensor([[0.2, 0.3], [0.5, 0.5], [1e-9, 1e-9], [1.0, 1e-30]]).log().unbind(1)
    losses, _ = three_class_loss(blank, label, *teacher, Nodes(*[torch.arange(4)] * 3), 4)
    (grad,) = torch.autograd.grad(losses.sum(), certain)
    assert torch.isfinite(losses).all() and torch.isfinite(grad).all()
