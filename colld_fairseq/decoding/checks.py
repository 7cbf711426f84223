"""What searches are given: refused where nothing sensible can come of it."""

from torch import Tensor

from colld_fairseq.errors import ColldError


def check_shapes(frames: Tensor, lengths: Tensor, shape: str = "frames [B, T, J]") -> None:
    """ColldError unless lengths [B] fit frames of three dimensions; `shape`: their name and letters, for messages."""
    if frames.dim() != 3 or lengths.shape != frames.shape[:1]:
        shapes = f"{tuple(frames.shape)} and {tuple(lengths.shape)}"
        raise ColldError(f"expected {shape} and lengths [B], got {shapes}")
    for i, length in enumerate(lengths.tolist()):
        if not 0 <= length <= frames.size(1):
            raise ColldError(f"utterance {i} of the batch: length {length}, which {frames.size(1)} frames do not fit")


def check_number(value: float, utterance: int) -> None:
    """ColldError for NaN."""
    if value != value:
        raise ColldError(
            f"utterance {utterance} of the batch: log-probabilities are NaN; the model has diverged, or its input"
            " holds NaN"
        )
