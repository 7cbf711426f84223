"""A CTC student that streams learns the posteriors of a model with full context, with a delay that is bounded.

What a streaming model says at a frame it may have to say later, because it does not know yet what follows. Frame by
frame distillation would punish that; here teacher frame t may be compared with the student's frames t to t + D:

    d(t, s) = KL(p~_t || q_{t+s}),   s = 0 ... D,

p~ of the teacher and q of the student. Each frame takes its best delay, or all frames of an utterance share one. That
a range of delays is compared is from Delayed-KD (Li et al. 2025, arXiv:2505.22069); these two definitions are ours.
"""

from typing import List, Tuple

import torch
from torch import Tensor

from .transducer_distillation import NodeLosses

CHOICES = ("frame", "utterance")


def delayed_divergence(
    logits: Tensor,
    teacher_logits: Tensor,
    lengths: Tensor,
    teacher_lengths: Tensor,
    delay: int = 0,
    choice: str = "frame",
) -> NodeLosses:
    """Sum over the frames t that both models have, F_b = min(T_b, T~_b) of them, of

    - "frame": the least d(t, s) of the delays s with which the student still has a frame t + s;
    - "utterance": d(t, s) with the s whose mean over its frames is least. The last s frames have no partner then: the
      sum is F_b times the mean over the others.

    A larger delay than D gains nothing, so the student has no reason for one. With D = 0 both are the plain sum of
    divergences. Arithmetic is float32 at least.

    Args:
        logits: `[B, T, V]` of the student.
        teacher_logits: `[B, T~, V]`, without gradient.
        lengths, teacher_lengths: int64 `[B]`.
        delay: D, frames.

    Returns sums and F `[B]`.
    """
    if choice not in CHOICES:
        raise ValueError(f"choice {choice!r} is none of {', '.join(CHOICES)}")
    shared = lengths.minimum(teacher_lengths.to(lengths.device))
    with torch.autocast(logits.device.type, enabled=False):
        divergences, present = _by_delay(logits, teacher_logits, lengths, shared, delay)
        if choice == "frame":
            least = divergences.masked_fill(~present, torch.inf).min(0).values
            return NodeLosses(torch.where(present[0], least, 0.0).sum(1), shared)
        counts = present.sum(2)  # [D + 1, B]
        means = (divergences * present).sum(2) / counts.clamp_min(1)
        best = means.masked_fill(counts == 0, torch.inf).argmin(0)  # without frames: 0, and a mean of 0
        return NodeLosses(shared * means.gather(0, best[None])[0], shared)


def _by_delay(
    logits: Tensor, teacher_logits: Tensor, lengths: Tensor, shared: Tensor, delay: int
) -> Tuple[Tensor, Tensor]:
    """d(t, s) `[D + 1, B, F]`, and which of these pairs are there, bool of that shape."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    frames = int(shared.max()) if len(shared) else 0
    log_p = teacher_logits[:, :frames].detach().to(dtype).log_softmax(-1)
    p, log_q = log_p.exp(), logits.to(dtype).log_softmax(-1)
    negative_entropy = torch.special.xlogy(p, p).sum(-1)
    t = torch.arange(frames, device=logits.device)
    divergences: List[Tensor] = []
    present: List[Tensor] = []
    for s in range(delay + 1):
        later = log_q[:, s : s + frames]
        missing = frames - later.size(1)
        cross = (p[:, : later.size(1)] * later).sum(-1)
        divergences.append(negative_entropy - torch.nn.functional.pad(cross, (0, missing)))
        present.append((t < shared[:, None]) & (t + s < lengths[:, None]))
    return torch.stack(divergences), torch.stack(present)
