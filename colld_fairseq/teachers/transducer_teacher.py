"""A trained transducer as the teacher of another one: its distribution at any node of the lattice of a text."""

from typing import Optional, Sequence

import torch
from torch import Tensor

from colld_fairseq.losses.transducer_distillation import Nodes, best_path
from colld_fairseq.teachers.alignment import check_equal_rate


class TeacherLattice:
    """The teacher's side of the lattices of M targets over B utterances; logits are computed where they are asked for.

    network: offers `join` (see `decoding.transducer.Network`) and its topology; frames [B, T, J] and symbols
    [M, U+1, J]: projected encoder and predictor outputs; frame_lengths, label_lengths, utterances:
    int64 [M]; utterances are the rows of each target's frames.
    """

    def __init__(
        self, network, frames: Tensor, symbols: Tensor, frame_lengths: Tensor, label_lengths: Tensor, utterances: Tensor
    ) -> None:
        self.network, self.frames, self.symbols = network, frames, symbols
        self.frame_lengths, self.label_lengths, self.utterances = frame_lengths, label_lengths, utterances

    @torch.no_grad()
    def logits(self, nodes: Nodes) -> Tensor:
        """float32 [..., V] at nodes that broadcast to [...]."""
        text, frame, label = torch.broadcast_tensors(*nodes)
        with torch.autocast(self.frames.device.type, enabled=False):
            return self.network.join(self.frames[self.utterances[text], frame], self.symbols[text, label])

    def path(self, blank: int) -> Nodes:
        """The nodes [P] of the teacher's own way along each text."""

        def emits(nodes: Nodes) -> Tensor:
            return self.logits(nodes).argmax(-1) != blank

        return best_path(emits, self.frame_lengths, self.label_lengths, self.network.topology)

    def check_frames(self, lengths: Tensor, names: Sequence[str]) -> None:
        """ConfigError where a student with `lengths` [M] frames does not run at the teacher's frame rate."""
        check_equal_rate(lengths, self.frame_lengths, names, "teacher transducer")


class TransducerTeacher:
    """A frozen transducer. It is no module of its own: in no checkpoint, never trained, never in train mode.

    network: a `transducer_student`; student_input: what makes its input of a waveform; path: of its checkpoint.
    """

    def __init__(self, network, student_input, path: str) -> None:
        self.network = network.eval().requires_grad_(False)
        self.student_input, self.path = student_input, path

    @torch.no_grad()
    def __call__(self, src_tokens: Tensor, src_lengths: Tensor, **targets: Tensor) -> TeacherLattice:
        """The lattices of `targets`, the arguments of `lattice_of` beside the audio; src_tokens is of any dtype."""
        device = src_tokens.device
        self.network.to(device)
        dtype = next(self.network.parameters()).dtype
        with torch.autocast(device.type, enabled=False):
            return lattice_of(self.network, src_tokens.to(dtype), src_lengths, **targets)


@torch.no_grad()
def lattice_of(
    network,
    src_tokens: Tensor,
    src_lengths: Tensor,
    prev_output_tokens: Tensor,
    label_lengths: Tensor,
    utterances: Optional[Tensor] = None,
) -> TeacherLattice:
    """The lattices that a `transducer_student` in evaluation mode has of targets, whose arguments are those of its
    forward. No gradient goes through them."""
    dtype = network.joiner.output.weight.dtype  # logits are computed outside of any autocast
    frames, lengths = network.encode_for_search(src_tokens, src_lengths)
    symbols = network.joiner.predictor_projection(network.predict_all(prev_output_tokens)).to(dtype)
    if utterances is None:
        utterances = torch.arange(len(frames), device=frames.device)
    return TeacherLattice(network, frames.to(dtype), symbols, lengths[utterances], label_lengths, utterances)
