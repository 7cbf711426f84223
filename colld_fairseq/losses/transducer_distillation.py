"""A transducer learns the distributions that another one has at the nodes of the lattice of a text.

P~(k | t, u) is the teacher's distribution at node (t, u), t frames consumed and u labels emitted, P the student's.

- *one-best path* (Yang et al. 2021, arXiv:2110.03334): KL(P~ || P) at the nodes where the teacher itself passes when
  it is led along the text (`best_path`), at most T + U of them;
- *three classes* (Panchapagesan et al. 2020, arXiv:2011.06110): at every node, KL over blank, next label and all the
  rest (`three_class_loss`);
- *full lattice*: KL over the vocabulary at every node (`lattice_divergence`).

The published losses are cross-entropies. The divergence is less by the teacher's entropy, which no gradient sees, and 0
where student and teacher agree. All of them are sums over the nodes of each text; arithmetic is float32 at least.
"""

from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from colld_fairseq.constants import LOOK_AHEAD

from .transducer_arcs import LogitLayout, piece_size

SMALLEST_REST = 1e-7  # added to the probability of the rest, as published; it is the rounding error of 1 - p_b - p_y


class Nodes(NamedTuple):
    """Nodes of lattices: text, frame and number of labels emitted, int64 tensors that broadcast."""

    text: Tensor
    frame: Tensor
    label: Tensor


class NodeLosses(NamedTuple):
    """`losses` `[M]`: sum over the nodes of each text, with gradient; `counts` `[M]` int64: those nodes."""

    losses: Tensor
    counts: Tensor


@torch.no_grad()
def best_path(
    emits: Callable[[Nodes], Tensor], frame_lengths: Tensor, label_lengths: Tensor, topology: str = "regular"
) -> Nodes:
    """The nodes `[P]` of the path that greedy search would take if every label it finds were the text's next one.

    From (0, 0): a blank leads to the next frame, any label to the next node of the text; after the last label there are
    blanks only. The path ends with the frames, whether or not all labels were reached. Of a greedy search's own result
    this is exactly its path.

    Args:
        emits: of nodes `[A, L]`, whether the teacher's most probable symbol is a label, bool of that shape.
        frame_lengths, label_lengths: `[M]` int64.
        topology: in the `modified` one a label leads to the next frame, too.
    """
    rows = torch.arange(len(frame_lengths), device=frame_lengths.device)
    longest = int(label_lengths.max()) if len(rows) else 0
    # Column u is entered at frame `enter` and left, by a label or with the last frame, at `leave`.
    enter = frame_lengths[:, None].repeat(1, longest + 1)
    leave = torch.full_like(enter, -1)
    enter[:, 0] = 0
    ahead = torch.arange(LOOK_AHEAD, device=rows.device)
    now, label = torch.zeros_like(frame_lengths), torch.zeros_like(label_lengths)
    active = rows[(now < frame_lengths) & (label < label_lengths)]
    while len(active):
        frames = now[active, None] + ahead
        inside = frames < frame_lengths[active, None]
        nodes = Nodes(active[:, None], frames.minimum(frame_lengths[active, None] - 1), label[active, None])
        is_label = emits(nodes) & inside
        first = torch.where(is_label.any(1), is_label.int().argmax(1), inside.sum(1))
        now[active] += first
        emitting = active[is_label.any(1)]
        leave[emitting, label[emitting]] = now[emitting]
        label[emitting] += 1
        if topology == "modified":
            now[emitting] += 1
        enter[emitting, label[emitting]] = now[emitting]
        active = rows[(now < frame_lengths) & (label < label_lengths)]
    leave[rows, label] = frame_lengths - 1
    frame = torch.arange(int(frame_lengths.max()) if len(rows) else 0, device=rows.device)[:, None]
    return Nodes(*((frame >= enter[:, None]) & (frame <= leave[:, None])).nonzero().unbind(1))


def node_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(softmax(teacher / temperature) || softmax(student / temperature)), `[..., V]` -> `[...]`."""
    dtype = torch.promote_types(torch.promote_types(student_logits.dtype, teacher_logits.dtype), torch.float32)
    student = torch.log_softmax(student_logits.to(dtype) / temperature, -1)
    teacher = torch.log_softmax(teacher_logits.to(dtype) / temperature, -1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)


def path_loss(
    student_logits: Tensor, teacher_logits: Tensor, present: Tensor, text: Tensor, count: int, temperature: float = 1.0
) -> NodeLosses:
    """Divergence at the nodes of one-best paths; of several student frames for a node, the least counts.

    Args:
        student_logits: `[P, W, V]` at the W frames with which a node may be compared.
        teacher_logits: `[P, V]`.
        present: `[P, W]` bool, which of these frames the student has. Nodes without any are left out.
        text: `[P]` int64, the transcript of each node, below `count`.
        temperature: divides both logits; there is no factor of its square, as in the published code.
    """
    with torch.autocast(student_logits.device.type, enabled=False):
        node, position = present.nonzero(as_tuple=True)
        divergence = node_divergence(student_logits[node, position], teacher_logits[node], temperature)
        return least_divergences(divergence, present, text, count)


def least_divergences(divergence: Tensor, present: Tensor, text: Tensor, count: int) -> NodeLosses:
    """The least of every node's, summed for each of `count` transcripts.

    divergence: `[Q]`, of the pairs of node and student frame that are `present` `[P, W]`, in their order.
    """
    values = divergence.new_full(present.shape, torch.inf).index_put(present.nonzero(as_tuple=True), divergence)
    compared = present.any(1)
    return sums_by_text(values.min(1).values[compared], text[compared], count)


def sums_by_text(values: Tensor, text: Tensor, count: int) -> NodeLosses:
    """Values `[P]` of nodes, added up for each of `count` transcripts."""
    losses = values.new_zeros(count).index_add(0, text, values)
    return NodeLosses(losses, torch.bincount(text, minlength=count))


def shared_nodes(
    frame_lengths: Tensor,
    teacher_frames: Tensor,
    label_lengths: Tensor,
    shift: int = 0,
    ranges: Optional[Tensor] = None,
) -> Nodes:
    """Nodes `[P]` of the student's lattices that have a next label, in frames that both models have.

    Args:
        frame_lengths, teacher_frames, label_lengths: `[M]`.
        shift: as for `lattice_divergence`.
        ranges: `[M, T, S]` the labels that are left of a pruned lattice.
    """
    frames = frame_lengths.minimum(teacher_frames + shift)
    t = torch.arange(int(frame_lengths.max()), device=frames.device)[:, None]
    u = torch.arange(int(label_lengths.max()) + 1, device=frames.device)
    counted = (t >= shift) & (t < frames[:, None, None]) & (u < label_lengths[:, None, None])
    if ranges is not None:
        counted &= torch.zeros_like(counted).scatter_(2, ranges, True)
    return Nodes(*counted.nonzero().unbind(1))


def arcs_at(
    nodes: Nodes,
    logits: Callable[[Nodes], Tensor],
    vocabulary: int,
    labels: Tensor,
    blank: int,
    rows: Optional[int] = None,
) -> Tuple[Tensor, Tensor]:
    """Log-probabilities `[P]` of the blank and of the next label at nodes `[P]`.

    Args:
        logits: of nodes, `[P, V]` for a `vocabulary` of V; asked for some at a time.
        labels: `[M, U]`.
        rows: how many nodes at a time; default: what suits the device.
    """
    step = rows or max(piece_size(nodes.text) // vocabulary, 1)
    blanks: List[Tensor] = []
    next_labels: List[Tensor] = []
    for piece in zip(*(part.split(step) for part in nodes)):
        log_probs = logits(Nodes(*piece)).log_softmax(-1)
        blanks.append(log_probs[:, blank])
        next_labels.append(log_probs.gather(1, labels[piece[0], piece[2]][:, None])[:, 0])
    return torch.cat(blanks), torch.cat(next_labels)


def three_class_loss(
    blank: Tensor, label: Tensor, teacher_blank: Tensor, teacher_label: Tensor, nodes: Nodes, count: int
) -> NodeLosses:
    """Divergence over blank, next label and the rest: with r = 1 - p_b - p_y,

        p~_b log(p~_b / p_b) + p~_y log(p~_y / p_y) + (r~ + 1e-7) log((r~ + 1e-7) / (r + 1e-7)).

    Args:
        blank, label, teacher_blank, teacher_label: `[P]` log-probabilities of the two arcs that leave each node. The
            student's are those of the transducer's loss, so its gradient takes no memory of the logits' size.
        nodes: those nodes; a text's last label has no next one, so its node is none of them.
        count: of transcripts.

    r is a difference of float32 numbers: where it is below 1e-6 while r~ is large (a student as good as certain, its
    teacher not), the gradient of the rest, and with it the sum over the vocabulary, is lost.
    """
    with torch.autocast(blank.device.type, enabled=False):
        dtype = torch.promote_types(blank.dtype, torch.float32)
        mine = [value.to(dtype) for value in (blank, label)]
        theirs = [value.to(dtype) for value in (teacher_blank, teacher_label)]
        mine.append(_log_rest(*mine))
        theirs.append(_log_rest(*theirs))
        values = sum(p.exp() * (p - q) for p, q in zip(theirs, mine))
        return sums_by_text(values, nodes.text, count)


def _log_rest(blank: Tensor, label: Tensor) -> Tensor:
    return (1 - blank.exp() - label.exp()).clamp_min(0.0).add(SMALLEST_REST).log()


def lattice_divergence(
    logits: Tensor,
    layout: LogitLayout,
    teacher_logits: Callable[[Nodes], Tensor],
    teacher_frames: Sequence[int],
    *,
    ranges: Optional[Tensor] = None,
    shift: int = 0,
    temperature: float = 1.0,
) -> NodeLosses:
    """KL over the vocabulary at every node of the lattices, or of the pruned range.

    Teacher and student are compared some frames at a time, and the gradient is computed on the way: neither the
    teacher's logits of a whole lattice nor any distribution is ever stored. Besides the logits there is one tensor of
    their size, the gradient.

    Args:
        logits: as `layout` says, contiguous.
        teacher_logits: of nodes `[t, W]` (frames of the teacher), `[t, W, V]`.
        teacher_frames: T~_b of each text.
        ranges: `[M, T, S]` the labels of a pruned layout's nodes; without them the nodes are 0, 1, ...
        shift: frames by which the student is later: its frame t + shift learns the teacher's frame t.
        temperature: as for `path_loss`.
    """
    last = [min(t, other + shift) for t, other in zip(layout.frames, teacher_frames)]
    with torch.autocast(logits.device.type, enabled=False):
        keep_gradient = torch.is_grad_enabled() and logits.requires_grad
        losses = _LatticeDivergence.apply(
            logits, layout, teacher_logits, last, ranges, shift, temperature, keep_gradient
        )
    return NodeLosses(losses, count_shared(last, layout.widths, shift, logits.device))


def count_shared(last: Sequence[int], widths: Sequence[int], shift: int, device: torch.device) -> Tensor:
    """`[M]` int64: nodes of each lattice from frame `shift` to before frame `last`, at which models are compared."""
    return torch.tensor([max(t - shift, 0) * w for t, w in zip(last, widths)], device=device)


class _LatticeDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, layout, teacher_logits, last: List[int], ranges, shift, temperature, keep_gradient):
        dtype = torch.promote_types(logits.dtype, torch.float32)
        losses = logits.new_zeros(len(last), dtype=dtype)
        gradient = torch.zeros_like(logits) if keep_gradient else None
        blocks = layout.blocks(logits)
        gradient_blocks = layout.blocks(gradient) if keep_gradient else None
        for b, rows in layout.pieces(logits):
            rows = slice(max(rows.start, shift), min(rows.stop, last[b]))
            if rows.start >= rows.stop:
                continue
            frames = torch.arange(rows.start - shift, rows.stop - shift, device=logits.device)[:, None]
            labels = torch.arange(layout.widths[b], device=logits.device)
            if ranges is not None:
                labels = ranges[b, rows, : layout.widths[b]]
            target = teacher_logits(Nodes(torch.full_like(frames, b), frames, labels)).to(dtype)
            log_p = torch.log_softmax(target / temperature, -1)
            log_q = torch.log_softmax(blocks[b][rows].to(dtype) / temperature, -1)
            p = log_p.exp()
            losses[b] += (log_p - log_q).mul_(p).sum()
            if keep_gradient:
                gradient_blocks[b][rows] = log_q.exp_().sub_(p).div_(temperature)
        ctx.gradient, ctx.layout = gradient, layout
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("the gradient of lattice_divergence can be asked for once only")
        for block, scale in zip(ctx.layout.blocks(gradient), grad):
            block.mul_(scale)
        return gradient, *[None] * 7
