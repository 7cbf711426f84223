"""The one place that brings teacher features to the student's frame rate and length."""

from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor

from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.modules.lengths import lengths_to_padding_mask

RULES = ("none", "average", "stack")
TOLERANCE = 2  # frames; front-ends with other windows and edges legitimately differ by one or two


def align_frames(
    features: Tensor,
    lengths: Tensor,
    source_hz: float,
    target_hz: float,
    rule: str,
    target_lengths: Tensor,
    ids: Optional[Sequence] = None,
    names: Tuple[str, str] = ("teacher", "student"),
) -> Tuple[Tensor, Tensor]:
    """Teacher features at the student's rate, trimmed to the frames both have.

    Args:
        features [B, T, D] at source_hz (of "none" and "stack" also whole numbers), lengths int64 [B]; target_lengths
            int64 [B] at target_hz.
        rule: "none" (equal rates), or for source_hz = n * target_hz "average" (mean of n neighbors; of a
            trailing incomplete group the mean of what is there) or "stack" (n neighbors side by side, width
            n * D; a trailing incomplete group is dropped).
        ids: names of the utterances; names: what the source and the target are; for the error messages.

    Returns features [B, T', D'] and lengths int64 [B] = min(teacher's, student's) per utterance, T' = their
    maximum; frames beyond a length are zero. Callers mask by these lengths.

    Raises TeacherError: the rates do not fit the rule, or an utterance differs by more than 2 student frames.
    """
    source, target = names
    factor = _factor(source_hz, target_hz, rule, names)
    if factor > 1:
        features, lengths = _group(features, lengths, factor, rule)
    target_lengths = target_lengths.to(lengths.device)
    off = (lengths - target_lengths).abs()
    if int(off.max()) > TOLERANCE:
        row = int(off.argmax())
        name = ids[row] if ids is not None else f"number {row} of the batch"
        raise TeacherError(
            f"utterance {name}: at {target_hz:g} Hz the {source} gives {int(lengths[row])} frames, the "
            f"{target} {int(target_lengths[row])}, more than {TOLERANCE} apart; check that both got the same "
            f"audio and that the rates ({source_hz:g} Hz to {target_hz:g} Hz, rule {rule!r}) are right"
        )
    lengths = torch.minimum(lengths, target_lengths)
    longest = int(lengths.max())
    padding = lengths_to_padding_mask(lengths, longest)
    return features[:, :longest].masked_fill(padding.unsqueeze(-1), 0), lengths


def check_equal_rate(lengths: Tensor, teacher_lengths: Tensor, ids: Sequence[str], teacher: str) -> None:
    """ConfigError where a student with `lengths` [B] frames does not run at the rate of a teacher with its [B]."""
    apart = (teacher_lengths.to(lengths.device) - lengths).abs()
    apart = torch.where(lengths > 0, apart, 0).tolist()
    worst = max(range(len(apart)), key=apart.__getitem__, default=0)
    if apart and apart[worst] > TOLERANCE:
        raise ConfigError(
            f"utterance {ids[worst]}: {int(lengths[worst])} frames of the student, "
            f"{int(teacher_lengths[worst])} of the {teacher}; both must have the same frame rate"
        )


def _factor(source_hz: float, target_hz: float, rule: str, names: Tuple[str, str]) -> int:
    """How many source frames make one target frame."""
    source, target = names
    if rule not in RULES:
        raise TeacherError(f"frame alignment rule is {rule!r}, choose one of {', '.join(RULES)}")
    ratio = source_hz / target_hz
    factor = round(ratio)
    if factor < 1 or abs(ratio - factor) > 1e-3:
        raise TeacherError(
            f"the {source}'s {source_hz:g} Hz are no whole multiple of the {target}'s {target_hz:g} Hz; choose "
            f"a {target} of {source_hz:g} Hz or a whole fraction of it"
        )
    if factor > 1 and rule == "none":
        raise TeacherError(
            f"the {source} runs at {source_hz:g} Hz, the {target} at {target_hz:g} Hz; choose the rule "
            f"'average' or 'stack'"
        )
    return factor


def _group(features: Tensor, lengths: Tensor, factor: int, rule: str) -> Tuple[Tensor, Tensor]:
    batch, frames, width = features.shape
    if rule == "stack":
        groups = frames // factor
        return features[:, : groups * factor].reshape(batch, groups, factor * width), lengths // factor
    groups = -(-frames // factor)
    valid = ~lengths_to_padding_mask(lengths, frames)
    features = features.masked_fill(~valid.unsqueeze(-1), 0.0)
    if frames % factor:
        missing = groups * factor - frames
        features = torch.nn.functional.pad(features, (0, 0, 0, missing))
        valid = torch.nn.functional.pad(valid, (0, missing))
    counts = valid.view(batch, groups, factor).sum(-1, keepdim=True).clamp(min=1)
    means = features.view(batch, groups, factor, width).sum(2) / counts.to(features.dtype)
    return means, -(-lengths // factor)
