"""The discriminative objective of Wang et al. (2210.15631): the student tells the teacher's code classes apart.

A HuBERT teacher assigns every frame to one of C code classes (its own pre-training targets):

    a_T(c, t) = cos(z(t), e_c) / temp,   q_T(c | t) = softmax over c of a_T(c, t)

The student's logits a_S are those of a linear classifier, or cosines to the same e_c (`cosine_logits`).

    soft   sum_t sum_c q_T(c | t) (log q_T(c | t) - log q_S(c | t))        KL(teacher || student)
    hard   sum_t -log q_S(c*(t) | t),   c*(t) = argmax_c a_T(c, t)         cross-entropy, as in HuBERT's pre-training
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class DiscriminativeOutput(NamedTuple):
    """`loss_sum`: sum over classes and over the frames that count; `count`: how many frames there are; `agree`: in how
    many of them teacher and student rate the same class highest (both 0-dim int64)."""

    loss_sum: Tensor
    count: Tensor
    agree: Tensor


def cosine_logits(x: Tensor, embeddings: Tensor, temp: float) -> Tensor:
    """Cosines of vectors `[..., E]` to `embeddings` `[C, E]`, one per class, divided by the temperature: `[..., C]`,
    float32 (float64 stays float64)."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, embeddings.dtype), torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return F.normalize(x.to(dtype), dim=-1) @ F.normalize(embeddings.to(dtype), dim=-1).T / temp


def discriminative_loss(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor, hard: bool = False
) -> DiscriminativeOutput:
    """KL divergence of the student's distribution over classes from the teacher's, or cross-entropy with its best one.

    Args:
        student_logits, teacher_logits: `[B, T, C]`, already divided by their temperatures.
        mask: `[B, T]` bool, True on the frames that count. Other frames never enter the arithmetic.
        hard: cross-entropy with the argmax of the teacher's logits in place of the divergence.

    Raises ValueError if shapes differ.
    """
    if student_logits.shape != teacher_logits.shape or mask.shape != student_logits.shape[:2]:
        raise ValueError(
            f"student logits {tuple(student_logits.shape)}, teacher logits {tuple(teacher_logits.shape)} and mask "
            f"{tuple(mask.shape)} must be [B, T, C], [B, T, C] and [B, T]"
        )
    dtype = torch.promote_types(torch.promote_types(student_logits.dtype, teacher_logits.dtype), torch.float32)
    frames = mask.flatten().nonzero().squeeze(1)
    student = student_logits.flatten(0, 1).index_select(0, frames).to(dtype)  # [F, C]
    teacher = teacher_logits.flatten(0, 1).index_select(0, frames).to(dtype)
    best = teacher.argmax(-1)
    if hard:
        loss_sum = F.cross_entropy(student, best, reduction="sum")
    else:
        log_q = F.log_softmax(student, dim=-1), F.log_softmax(teacher, dim=-1)
        loss_sum = F.kl_div(*log_q, reduction="sum", log_target=True)
    count = torch.tensor(frames.numel(), device=mask.device)
    return DiscriminativeOutput(loss_sum, count, (student.argmax(-1) == best).sum())
