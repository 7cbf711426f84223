"""Transducer loss that never holds the logits: joiner, softmax and full-lattice distillation tile by tile.

`transducer_loss` wants the logits of all nodes, 4 * T * (U + 1) * V bytes per utterance, and as much before that for
what the joiner makes of them. Here the joiner's last layers are part of the loss (`joiner_tiles`). The forward pass
keeps of every node the log-probabilities of its two arcs, and of every lattice the divergence from a teacher, if there
is one. The sum over the alignments and its gradient in the arcs are those of the other transducer losses; the three
classes of `transducer_distillation` take the arcs, too. The backward pass computes the tiles again, only where an arc
has a gradient, and with g_b, g_l and s the gradients that reach the two arcs of a node and the divergence of its
lattice at a temperature a,

    d / d logit_k = g_b [k = blank] + g_l [k = next label] - softmax_k(z) (g_b + g_l)
                    + s / a (softmax_k(z / a) - softmax_k(z~ / a)),

which is turned into the gradients of frames, symbols, weight and bias before the next tile. Value and gradient are
those of the plain loss up to rounding; sums are taken in the same order every time. The price is a matrix product more:
four for the nodes that have a gradient instead of three, one for the others instead of three.
"""

from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .joiner_tiles import JoinerParts, OutputLayer, logit_dtype, rectangles, refuse_second_derivative, tile_rows
from .transducer import Targets, TransducerOptions, TransducerOutput, check_room, check_targets, path_losses
from .transducer_arcs import columns_with_gradient
from .transducer_distillation import Nodes

Tile = Tuple[int, slice, slice]  # utterance, frames, symbols


class LatticeTeacher(NamedTuple):
    """The model whose distribution the student learns at every node, as in `lattice_divergence`.

    logits: of nodes (utterances `[t, 1]`, frames of the teacher `[t, 1]`, symbols `[w]`), `[t, w, V]`; frames: T~_b
    of each utterance; shift: frames by which the student is later; temperature: divides both models' logits.
    """

    logits: Callable[[Nodes], Tensor]
    frames: Sequence[int]
    shift: int = 0
    temperature: float = 1.0

    def shared(self, b: int, frames: slice) -> slice:
        """Which of some student frames of an utterance have one of the teacher's."""
        start = max(frames.start, self.shift)
        return slice(start, max(start, min(frames.stop, self.frames[b] + self.shift)))


def tiled_transducer_loss(
    parts: JoinerParts,
    labels: Tensor,
    logit_lengths: Tensor,
    label_lengths: Tensor,
    *,
    budget_mb: float,
    teacher: Optional[LatticeTeacher] = None,
    utterance_ids: Optional[Sequence[str]] = None,
    **options,
) -> TransducerOutput:
    """`transducer_loss` of a joiner's logits, and `lattice_divergence` of them from a teacher's, without the logits.

    Args:
        parts: the joiner and what it joins. Padding is never read. Half precision, or autocast, is what the matrix
            products are computed in; softmax and sums are float32 at least.
        budget_mb: memory for logits and what is made of them, 10^6 bytes; with less than one node needs it is one node
            at a time. What comes on top is the gradient of the parts, and some tensors of the lattice's size.
        teacher: adds `divergences` to the output, a sum over the nodes of each utterance.
        the others: as for `transducer_loss`, with the same errors.

    The loss can be differentiated once (RuntimeError with create_graph=True).
    """
    check_parts(parts)
    chosen = TransducerOptions(**options)
    targets = check_targets(labels, logit_lengths, label_lengths, len(parts.weight), chosen, utterance_ids)
    check_room(parts.frames, (max(targets.frames, default=0),), "frames [B, T, J]", targets)
    check_room(parts.symbols, (targets.next_labels.shape[1],), "symbols [B, U+1, J]", targets)
    dtype = logit_dtype(parts.frames, parts.weight)
    rows = tile_rows(budget_mb, *parts.weight.shape, dtype, teacher is not None)
    lattice = _Lattice(targets, chosen.blank, parts.activation, dtype, rows, teacher)
    with torch.autocast(parts.frames.device.type, enabled=False):
        blank_arcs, label_arcs, divergences = _TiledLattice.apply(*parts[:4], lattice)
        losses = path_losses(blank_arcs, label_arcs, targets, chosen)
    return TransducerOutput(*losses, blank_arcs, label_arcs, divergences if teacher else None)


def check_parts(parts: JoinerParts) -> None:
    """ValueError unless the shapes fit each other."""
    shapes = [tuple(tensor.shape) for tensor in parts[:4]]
    frames, symbols, weight, bias = shapes
    dims = [len(shape) for shape in shapes]
    if dims != [3, 3, 2, 1] or not frames[2] == symbols[2] == weight[1] or bias[0] != weight[0]:
        raise ValueError(
            f"frames {frames}, symbols {symbols}, weight {weight} and bias {bias} must be [B, T, J], [B, U+1, J], "
            "[V, J] and [V]"
        )


class _Lattice(NamedTuple):
    """The lattices of a batch and how they are cut; `rows`: most nodes of a tile, `dtype`: of the logits."""

    targets: Targets
    blank: int
    activation: Callable[[Tensor], Tensor]
    dtype: torch.dtype
    rows: int
    teacher: Optional[LatticeTeacher]

    @property
    def sizes(self) -> List[Tuple[int, int]]:
        """Frames and symbols, U_b + 1, of each utterance."""
        return [(t, u + 1) for t, u in zip(self.targets.frames, self.targets.label_counts)]

    @property
    def most_nodes(self) -> int:
        """Of an utterance."""
        return max((t * w for t, w in self.sizes), default=1)

    def tiles(self) -> Iterator[Tile]:
        """All nodes."""
        for b, (t, w) in enumerate(self.sizes):
            yield from ((b, *tile) for tile in rectangles([0] * t, [w] * t, self.rows))

    def tiles_with_gradient(self, grad_blank: Tensor, grad_label: Tensor, grad_divergence: Tensor) -> Iterator[Tile]:
        """The nodes whose logits get a gradient."""
        firsts, ends = columns_with_gradient(grad_blank, grad_label)
        divergent = (grad_divergence != 0).tolist()
        for b, (t, w) in enumerate(self.sizes):
            first, end = firsts[b][:t], [min(column, w) for column in ends[b][:t]]
            if self.teacher is not None and divergent[b]:
                shared = self.teacher.shared(b, slice(0, t))
                first[shared], end[shared] = ([edge] * (shared.stop - shared.start) for edge in (0, w))
            yield from ((b, *tile) for tile in rectangles(first, end, self.rows))

    def next_labels(self, tile: Tile) -> Tensor:
        """`[t, w, 1]`"""
        b, frames, symbols = tile
        return self.targets.next_labels[b, symbols].expand(frames.stop - frames.start, -1)[..., None]

    def teacher_logits(self, b: int, frames: slice, symbols: slice, dtype: torch.dtype) -> Tensor:
        """`[t, w, V]` at student frames that the teacher has too, divided by the temperature."""
        device, shift = self.targets.next_labels.device, self.teacher.shift
        frame = torch.arange(frames.start - shift, frames.stop - shift, device=device)[:, None]
        symbol = torch.arange(symbols.start, symbols.stop, device=device)
        logits = self.teacher.logits(Nodes(torch.full_like(frame, b), frame, symbol)).to(dtype)
        return logits if self.teacher.temperature == 1 else logits / self.teacher.temperature

    def divergence(self, tile: Tile, log_probs: Tensor) -> Optional[Tensor]:
        """Summed over a tile, from the student's log-probabilities `[t, w, V]`, which are overwritten. None where the
        teacher has no frames."""
        b, frames, symbols = tile
        shared = self.teacher.shared(b, frames)
        if shared.start >= shared.stop:
            return None
        log_q = log_probs[shared.start - frames.start : shared.stop - frames.start]
        if self.teacher.temperature != 1:
            log_q = torch.log_softmax(log_q / self.teacher.temperature, -1)
        log_p = torch.log_softmax(self.teacher_logits(b, shared, symbols, log_q.dtype), -1)
        return torch.sub(log_p, log_q, out=log_q).mul_(log_p.exp_()).sum()

    def divergence_gradient(self, tile: Tile, logits: Tensor, scale: Tensor) -> Optional[Tuple[slice, Tensor]]:
        """(frames within the tile, gradient there `[t, w, V]`) of `scale` times the divergence, from logits `[t, w,
        V]`; None where it has none."""
        b, frames, symbols = tile
        shared = self.teacher.shared(b, frames)
        if shared.start >= shared.stop:
            return None
        inside, temperature = slice(shared.start - frames.start, shared.stop - frames.start), self.teacher.temperature
        q = logits[inside].to(scale.dtype).div(temperature)
        torch.softmax(q, -1, out=q)
        p = self.teacher_logits(b, shared, symbols, scale.dtype).softmax(-1)
        return inside, q.sub_(p).mul_(scale / temperature)


class _TiledLattice(torch.autograd.Function):
    """Log-probabilities of blank and label arcs `[B, T, U+1]`, zero where there is no node, and divergences `[B]`."""

    @staticmethod
    def forward(ctx, frames, symbols, weight, bias, lattice: _Lattice):
        ctx.save_for_backward(frames, symbols, weight, bias)
        ctx.lattice = lattice
        output = OutputLayer(weight, bias, lattice.dtype, lattice.rows, lattice.most_nodes)
        shape = (len(lattice.sizes), *(max((size[i] for size in lattice.sizes), default=i) for i in (0, 1)))
        blank_arcs, label_arcs = (frames.new_zeros(shape, dtype=output.exact) for _ in range(2))
        divergences = frames.new_zeros(shape[0], dtype=output.exact)
        for tile in lattice.tiles():
            b, t, u = tile
            hidden = lattice.activation(frames[b, t, None] + symbols[b, u])
            log_probs = output.log_softmax(output.logits(hidden.flatten(0, 1))).view(*hidden.shape[:2], -1)
            blank_arcs[tile] = log_probs[..., lattice.blank]
            label_arcs[tile] = log_probs.gather(2, lattice.next_labels(tile))[..., 0]
            if lattice.teacher is not None:
                divergence = lattice.divergence(tile, log_probs)
                if divergence is not None:
                    divergences[b] += divergence
        return blank_arcs, label_arcs, divergences

    @staticmethod
    def backward(ctx, grad_blank, grad_label, grad_divergence):
        refuse_second_derivative()
        with torch.autocast(grad_blank.device.type, enabled=False):  # the caller may be inside one
            return (*_gradients(*ctx.saved_tensors, ctx.lattice, grad_blank, grad_label, grad_divergence), None)


def _gradients(
    frames: Tensor,
    symbols: Tensor,
    weight: Tensor,
    bias: Tensor,
    lattice: _Lattice,
    grad_blank: Tensor,
    grad_label: Tensor,
    grad_divergence: Tensor,
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of frames, symbols, weight and bias, from those of arcs `[B, T, U+1]` and divergences `[B]`."""
    output = OutputLayer(weight, bias, lattice.dtype, lattice.rows, lattice.most_nodes, with_gradient=True)
    grad_frames, grad_symbols = (torch.zeros_like(part, dtype=output.exact) for part in (frames, symbols))
    total = grad_blank + grad_label
    for tile in lattice.tiles_with_gradient(grad_blank, grad_label, grad_divergence):
        b, t, u = tile
        joined = (frames[b, t, None] + symbols[b, u]).detach().requires_grad_()
        with torch.enable_grad():
            hidden = lattice.activation(joined)
        shape, rows = hidden.shape[:2], hidden.detach().flatten(0, 1)
        logits = output.logits(rows).view(*shape, -1)
        learned = None
        if lattice.teacher is not None:
            learned = lattice.divergence_gradient(tile, logits, grad_divergence[b])
        gradient = output.softmax(logits).mul_(-total[tile][..., None])
        gradient[..., lattice.blank] += grad_blank[tile]
        gradient.scatter_add_(2, lattice.next_labels(tile), grad_label[tile][..., None])
        if learned is not None:
            gradient[learned[0]] += learned[1]
        grad_hidden = output.backward(gradient.flatten(0, 1), rows).view_as(hidden).to(hidden.dtype)
        (grad_joined,) = torch.autograd.grad(hidden, joined, grad_hidden)
        grad_frames[b, t] += grad_joined.sum(1, dtype=output.exact)
        grad_symbols[b, u] += grad_joined.sum(0, dtype=output.exact)
    gradients = grad_frames, grad_symbols, output.grad_weight, output.grad_bias
    return tuple(gradient.to(part.dtype) for gradient, part in zip(gradients, (frames, symbols, weight, bias)))
