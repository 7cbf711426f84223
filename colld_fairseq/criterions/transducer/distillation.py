"""What a transducer learns from another one beside the text: `--kd` of criterion `transducer`.

    loss = transducer + lambda * sum over nodes of KL(teacher || student)        lambda = --kd-weight

over the nodes of the teacher's one-best path, or over all nodes (of the pruned range, in pruned training) with three
classes or the whole vocabulary (`losses.transducer_distillation`). The target may be the teacher's own hypothesis
(pseudo-labels), or several of them, weighed by their scores.

The teacher is another model, or with --kd-from self the student's own full-context mode, run on the same batch in
evaluation mode and without gradients while its streaming mode is trained with the chunk drawn for the batch.

A streaming student knows what was said some frames later than the teacher: with --kd-shift s its frame t + s learns the
teacher's frame t, with --kd-window n the best suited one of its frames t + s - n + 1 to t + s.
"""

from dataclasses import dataclass
from typing import Dict, Optional

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from torch import Tensor

from colld_fairseq.criterions.transducer.targets import TargetSequences
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.joiner_tiles import tile_rows
from colld_fairseq.losses.transducer import TransducerOutput
from colld_fairseq.losses.transducer_arcs import LogitLayout
from colld_fairseq.losses.transducer_distillation import (
    NodeLosses,
    Nodes,
    arcs_at,
    count_shared,
    lattice_divergence,
    path_loss,
    shared_nodes,
    three_class_loss,
)
from colld_fairseq.losses.transducer_tiled import LatticeTeacher
from colld_fairseq.losses.transducer_tiled_path import tiled_path_loss
from colld_fairseq.modules.whole_context import whole_context
from colld_fairseq.numbers import COUNT, COUNT_OR_NONE, NOT_NEGATIVE, POSITIVE, option
from colld_fairseq.teachers.transducer_teacher import TeacherLattice, lattice_of


@dataclass
class TransducerKdConfig(FairseqDataclass):
    kd: ChoiceEnum(["none", "one_best", "three_class", "lattice"]) = option(
        "none",
        "what is learned from --teacher-transducer: the nodes of its one-best path, of all nodes blank, next label"
        " and rest, or of all nodes the whole vocabulary",
    )
    kd_from: ChoiceEnum(["teacher", "self"]) = option(
        "teacher",
        "--teacher-transducer, or self: the full-context mode of a student that is trained with chunks (our choice)",
    )
    kd_weight: float = option(1.0, "weight of the distillation loss (our choice)", NOT_NEGATIVE)
    kd_mean: ChoiceEnum(["text", "node"]) = option(
        "text",
        "text: sum over the nodes of a text (Yang et al.), beside its -ln p; node: mean over all nodes, beside the"
        " mean per token, for lattices, which have many",
    )
    kd_temperature: float = option(1.0, "divides both models' logits (one_best and lattice; Yang et al.: 1)", POSITIVE)
    kd_shift: int = option(0, "student frames by which it comes after the teacher (streaming: > 0)", COUNT_OR_NONE)
    kd_window: int = option(
        1, "student frames up to that shift of which the best suited learns (Yang et al.: 3)", COUNT
    )


def check_options(cfg: TransducerKdConfig) -> None:
    """ConfigError for options that do not fit each other."""
    if cfg.kd == "three_class" and cfg.kd_temperature != 1:
        raise ConfigError("--kd-temperature: three classes have none; it is for --kd one_best and lattice")
    if cfg.kd not in ("none", "one_best") and cfg.kd_window != 1:
        raise ConfigError(f"--kd-window: {cfg.kd} has none; it is for --kd one_best")
    if cfg.kd == "none" and cfg.kd_from == "self":
        raise ConfigError("--kd-from self says nothing without --kd: say what is learned (one_best, say)")


def own_lattice(model, sample: Dict, sequences: TargetSequences) -> TeacherLattice:
    """Of a student's full-context mode. ConfigError for a student without one beside its streaming mode."""
    net_input = sample["net_input"]
    with whole_context(model, model.encoder.student):
        return lattice_of(model, net_input["src_tokens"], net_input["src_lengths"], **sequences.inputs)


class Distillation:
    """The distillation loss of one batch; `nodes` are asked of the student's forward, `losses` takes its output.

    Nodes are counted in student frames, sequences as in the batch. budget_mb: memory for logits; 0: the student's are
    in its output.
    """

    def __init__(
        self, cfg: TransducerKdConfig, teacher: TeacherLattice, sequences: TargetSequences, blank: int, budget_mb: float
    ) -> None:
        self.cfg, self.teacher, self.blank, self.budget_mb = cfg, teacher, blank, budget_mb
        self.labels, self.names = sequences.labels, sequences.names
        self.nodes: Optional[Nodes] = None
        if cfg.kd == "one_best":
            self.path = teacher.path(blank)  # [P]
            latest_first = torch.arange(cfg.kd_window, device=self.labels.device)
            frames = self.path.frame[:, None] + cfg.kd_shift - latest_first  # [P, W]
            self.nodes = Nodes(self.path.text[:, None], frames, self.path.label[:, None])

    def losses(self, output: Dict[str, Tensor], transducer: TransducerOutput) -> NodeLosses:
        """Of all M sequences; `transducer` is the loss of those whose utterances have frames.

        ConfigError where teacher and student do not have the same frame rate.
        """
        self.teacher.check_frames(output["lengths"], self.names)
        if self.cfg.kd == "one_best":
            return self.path_losses(output)
        if self.cfg.kd == "three_class":
            return self.class_losses(output, transducer)
        return self.lattice_losses(output, transducer)

    def lattice_teacher(self, kept: Tensor) -> Optional[LatticeTeacher]:
        """What the transducer loss in tiles needs of the teacher for the sequences `kept` (bool [M]), if anything."""
        if self.cfg.kd != "lattice":
            return None
        rows, frames = kept.nonzero()[:, 0], self.teacher.frame_lengths[kept].tolist()

        def logits(nodes: Nodes) -> Tensor:
            return self.teacher.logits(nodes._replace(text=rows[nodes.text]))

        return LatticeTeacher(logits, frames, self.cfg.kd_shift, self.cfg.kd_temperature)

    def path_losses(self, output: Dict[str, Tensor]) -> NodeLosses:
        text, frame, _ = self.nodes
        present = (frame >= 0) & (frame < output["lengths"][text])
        compared = present, self.path.text, len(self.labels)
        if self.budget_mb:
            options = dict(budget_mb=self.budget_mb, temperature=self.cfg.kd_temperature)
            return tiled_path_loss(output["node_parts"], self.path_logits, *compared, **options)
        return path_loss(output["node_logits"], self.teacher.logits(self.path), *compared, self.cfg.kd_temperature)

    def path_logits(self, chosen: Tensor) -> Tensor:
        """Of the teacher, at some nodes of its paths."""
        return self.teacher.logits(Nodes(*(part[chosen] for part in self.path)))

    def class_losses(self, output: Dict[str, Tensor], transducer: TransducerOutput) -> NodeLosses:
        teacher, shift = self.teacher, self.cfg.kd_shift
        nodes = shared_nodes(
            output["lengths"], teacher.frame_lengths, teacher.label_lengths, shift, output.get("ranges")
        )
        row = (output["lengths"] > 0).cumsum(0) - 1  # of a sequence among those with frames
        at = row[nodes.text], nodes.frame, nodes.label
        weight = teacher.network.joiner.output.weight
        rows = tile_rows(self.budget_mb, *weight.shape, weight.dtype, teacher=True) if self.budget_mb else None
        earlier = nodes._replace(frame=nodes.frame - shift)
        theirs = arcs_at(earlier, teacher.logits, len(weight), self.labels, self.blank, rows)
        return three_class_loss(transducer.blank_arcs[at], transducer.label_arcs[at], *theirs, nodes, len(self.labels))

    def lattice_losses(self, output: Dict[str, Tensor], transducer: TransducerOutput) -> NodeLosses:
        frames = output["lengths"].tolist()
        widths = self.teacher.label_lengths + 1
        if transducer.divergences is not None:
            kept, shift = output["lengths"] > 0, self.cfg.kd_shift
            losses = transducer.divergences.new_zeros(len(kept)).masked_scatter(kept, transducer.divergences)
            last = output["lengths"].minimum(self.teacher.frame_lengths + shift).tolist()
            return NodeLosses(losses, count_shared(last, widths.tolist(), shift, losses.device))
        ranges, logits = output.get("ranges"), output["logits"]
        if ranges is not None:
            widths = widths.clamp_max(ranges.shape[2])  # a sequence that fits into the pruned range begins it at 0
        return lattice_divergence(
            logits,
            LogitLayout(frames, widths.tolist(), packed=ranges is None),
            self.teacher.logits,
            self.teacher.frame_lengths.tolist(),
            ranges=ranges,
            shift=self.cfg.kd_shift,
            temperature=self.cfg.kd_temperature,
        )
