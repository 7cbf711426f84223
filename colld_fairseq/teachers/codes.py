"""The code classes of a teacher: which discrete unit a frame belongs to, as logits over all units.

Two kinds. HuBERT's own head, kept in fairseq's pre-training checkpoints, compares a projection of the last
layer with one embedding a class by cosine. A codebook of `colld cluster` has k-means centroids of any layer of
any teacher, compared by squared distance.
"""

from dataclasses import dataclass, fields, replace
from typing import Dict, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from colld_fairseq.checkpoints.encoder import hash_of
from colld_fairseq.checkpoints.names_fairseq import FIELDS, open_file
from colld_fairseq.errors import TeacherError
from colld_fairseq.losses import cosine_logits
from colld_fairseq.teachers.codebook import Codebook

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class TeacherCodes:
    """C code classes on features of one teacher layer; all tensors float32.

    layer: which layer's output [.., D] the codes are defined on; kind: "layer" or "ffn".
    embeddings: [C, E]; projection: (weight [E, D], bias [E]) or None (E = D).
    layer_norm: (weight [D], bias [D]) applied before the projection, or None: pre-norm teachers end with a norm
        that is part of no layer's raw output.
    mean, std: [D] that features are normalized with, or None.
    metric: "cosine" or "euclidean"; source: the file, for messages.
    """

    layer: int
    embeddings: Tensor
    projection: Optional[Tuple[Tensor, Tensor]] = None
    layer_norm: Optional[Tuple[Tensor, Tensor]] = None
    mean: Optional[Tensor] = None
    std: Optional[Tensor] = None
    metric: str = "cosine"
    source: str = ""
    kind: str = "layer"

    @property
    def num_codes(self) -> int:
        """C."""
        return self.embeddings.size(0)

    @property
    def code_dim(self) -> int:
        """E."""
        return self.embeddings.size(1)

    def to(self, device) -> "TeacherCodes":
        """The same codes on another device."""

        def moved(value):
            if isinstance(value, tuple):
                return tuple(map(moved, value))
            return value.to(device) if isinstance(value, Tensor) else value

        return replace(self, **{field.name: moved(getattr(self, field.name)) for field in fields(self)})

    @torch.no_grad()
    def logits(self, features: Tensor, temp: float) -> Tensor:
        """float32 [.., C] of features [.., D] of any precision, computed in float32.

        cosine: cos(P norm(h) + c0, e_c) / temp, HuBERT's (Hsu et al. 2021, equation 3).
        euclidean: -mean over channels of ((h - mean) / std - e_c)^2, divided by temp: the largest is the
        k-means cluster (our choice; the mean makes one temperature serve all widths).
        """
        with torch.autocast(features.device.type, enabled=False):
            hidden = features.float()
            if self.metric == "euclidean":
                return self._negative_distance((hidden - self.mean) / self.std) / temp
            if self.layer_norm is not None:
                hidden = F.layer_norm(hidden, hidden.shape[-1:], *self.layer_norm, LAYER_NORM_EPS)
            if self.projection is not None:
                hidden = F.linear(hidden, *self.projection)
            return cosine_logits(hidden, self.embeddings, temp)

    def _negative_distance(self, hidden: Tensor) -> Tensor:
        """[.., C], from squares and one matrix product: [.., C, D] would not fit in memory."""
        product = hidden @ self.embeddings.t()
        squares = hidden.square().sum(-1, keepdim=True) + self.embeddings.square().sum(-1)
        return (2 * product - squares) / self.code_dim


def load_codes(teacher_spec: str, codebook: str = "") -> TeacherCodes:
    """The codes of a teacher: its own ("", HuBERT's pre-training head), or those in the file `codebook`.

    Raises TeacherError: the teacher has none of its own (the message says how to make a codebook), the file is
    damaged or belongs to another teacher.
    """
    if codebook:
        return _from_codebook(teacher_spec, codebook)
    return _from_checkpoint(teacher_spec)


def codes_of(book: Codebook, source: str = "") -> TeacherCodes:
    """The codes of a codebook."""
    return TeacherCodes(
        layer=book.header.layer,
        embeddings=book.centroids,
        mean=book.mean,
        std=book.std,
        metric="euclidean",
        source=source,
        kind=book.header.kind,
    )


def _from_codebook(spec: str, path: str) -> TeacherCodes:
    book = Codebook.load(path)
    if hash_of(spec) != book.header.content_hash:
        raise TeacherError(
            f"codebook {path} was made from {book.header.teacher}, whose files differ from teacher {spec}; make "
            f"another with `colld cluster --teacher {spec}`"
        )
    return codes_of(book, path)


def _from_checkpoint(spec: str) -> TeacherCodes:
    scheme, _, name = spec.partition(":")
    if scheme != "fairseq":
        raise TeacherError(_without_codes(spec, "this layout drops final_proj and the code embeddings"))
    file = open_file(name)
    state, fields = file.weights, FIELDS.to_ours(file.model)
    missing = [key for key in ("final_proj.weight", "final_proj.bias", "label_embs_concat") if key not in state]
    if missing or file.name != "hubert":
        reason = f"the checkpoint lacks {', '.join(missing)}" if missing else "it is not a HuBERT"
        raise TeacherError(_without_codes(spec, reason))
    embeddings, projection = _embeddings(spec, state, file.task)
    norm = None
    if fields["norm_first"]:
        norm = (state["encoder.layer_norm.weight"].float(), state["encoder.layer_norm.bias"].float())
    return TeacherCodes(
        layer=fields["layers"], embeddings=embeddings, projection=projection, layer_norm=norm, source=str(file.path)
    )


def _embeddings(spec: str, state: Dict[str, Tensor], task: Dict) -> Tuple[Tensor, Tuple[Tensor, Tensor]]:
    """(embeddings [C, E], projection) of a checkpoint with one dictionary."""
    embeddings = state["label_embs_concat"].float()
    projection = state["final_proj.weight"].float(), state["final_proj.bias"].float()
    labels = list(task.get("labels") or ["km"])
    if len(labels) > 1 or len(projection[1]) != embeddings.size(1):
        # the checkpoint does not say how many rows of label_embs_concat each dictionary has
        raise TeacherError(
            f"teacher {spec}: was pre-trained with several label dictionaries ({', '.join(labels)}), whose code "
            f"embeddings lie in one table without a mark where each begins. {_way_out(spec)}"
        )
    if "target_glu.0.weight" in state:  # Linear and GLU on the embeddings: constant, so done once
        glu = state["target_glu.0.weight"].float(), state["target_glu.0.bias"].float()
        embeddings = F.glu(F.linear(embeddings, *glu), dim=-1)
    return embeddings, projection


def _without_codes(spec: str, reason: str) -> str:
    return f"teacher {spec} has no codes of its own: {reason}. {_way_out(spec)}"


def _way_out(spec: str) -> str:
    return (
        "Take the fairseq pre-training checkpoint (fairseq:FILE.pt), or make codes with "
        f"`colld cluster --teacher {spec} --manifest TRAIN.tsv --layer K --out codes.safetensors` and give "
        "--teacher-codes codes.safetensors"
    )
