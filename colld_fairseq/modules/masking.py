"""Random masks over time and over channels, in the manner of wav2vec 2.0.

All randomness comes from torch's generator, which fairseq reseeds at every update: a resumed run draws the
masks that the uninterrupted one would have drawn.
"""

from typing import Optional, Union

import torch
from torch import Tensor


def sample_span_mask(
    lengths: Tensor, mask_prob: float, mask_length: int, min_masks: int = 2, generator: Optional[torch.Generator] = None
) -> Tensor:
    """Choose spans of frames to mask, independently for every sequence.

    A sequence of T frames receives `mask_prob * T / mask_length` spans, rounded up or down at random so that the mean
    is exact, but at least `min_masks`. Starts are uniform over the positions at which a whole span fits, with
    replacement, so spans may overlap: of a long sequence a share of about `1 - exp(-mask_prob)` is masked (48 % for
    0.65). A span longer than the sequence is clipped to it. If the spans cover a whole sequence, one frame of it, drawn
    uniformly, stays unmasked, so that there is always something to predict from: one of one frame is never masked.

    Args:
        lengths: `[B]` int, valid frames of each sequence.
        mask_prob: 0 masks nothing at all, whatever `min_masks` says.
        mask_length: span length in frames.
        min_masks: least number of spans in a sequence.
        generator: of the device of `lengths`; torch's default one if not given.

    Returns `[B, max(lengths)]` bool, True = masked; False on all padding. Raises ValueError for negative arguments, and
    spans of no frame.
    """
    if mask_prob < 0 or mask_length < 1 or min_masks < 0:
        raise ValueError(
            f"mask_prob={mask_prob}, mask_length={mask_length}, min_masks={min_masks}: mask_prob and "
            "min_masks must not be negative, mask_length must be at least 1"
        )
    batch, device = lengths.numel(), lengths.device
    frames = int(lengths.max()) if batch else 0
    mask = torch.zeros(batch, frames, dtype=torch.bool, device=device)
    if mask_prob == 0 or frames == 0:
        return mask

    expected = mask_prob * lengths.double() / mask_length
    rounding = torch.rand(batch, generator=generator, device=device)
    spans = (expected + rounding).floor().long().clamp_min(min_masks)  # [B]
    most_spans = max(min_masks, int(mask_prob * frames / mask_length) + 1)
    used = torch.arange(most_spans, device=device)[None, :] < spans[:, None]  # [B, S]

    span_length = lengths.clamp_max(mask_length)[:, None]  # [B, 1]
    positions = lengths[:, None] - span_length + 1
    starts = torch.rand(batch, most_spans, generator=generator, device=device) * positions
    starts = torch.minimum(starts.long(), positions - 1)  # float32 may round up to the end of the range

    # +1 where a span begins, -1 behind its end: the running sum counts the spans over each frame.
    changes = torch.zeros(batch, frames + 1, dtype=torch.long, device=device)
    changes.scatter_add_(1, starts, used.long())
    changes.scatter_add_(1, starts + span_length, -used.long())
    mask = changes.cumsum(1)[:, :frames] > 0

    covered = mask.sum(1) == lengths
    spared = torch.rand(batch, generator=generator, device=device) * lengths
    spared = torch.minimum(spared.long(), (lengths - 1).clamp_min(0))
    is_spared = torch.arange(frames, device=device)[None, :] == spared[:, None]
    return mask & ~(is_spared & covered[:, None])


def sample_channel_mask(
    batch: int,
    width: int,
    mask_prob: float,
    mask_length: int,
    generator: Optional[torch.Generator] = None,
    device: Union[torch.device, str, None] = None,
) -> Tensor:
    """Spans of channels to zero over a whole sequence (wav2vec 2.0 fine-tuning): `[batch, width]` bool, True = masked.

    The number of spans and their starts are drawn as in `sample_span_mask`, without a least number.
    """
    widths = torch.full((batch,), width, dtype=torch.long, device=device)
    return sample_span_mask(widths, mask_prob, mask_length, min_masks=0, generator=generator)
