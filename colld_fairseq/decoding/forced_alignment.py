"""When a model says each token of a text: the most probable path of CTC, or of a transducer's lattice.

Shapes: T frames, U labels, V vocabulary; one utterance at a time.
"""

from typing import List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from colld_fairseq.decoding.ctc import align_labels
from colld_fairseq.errors import ColldError

PIECE = 2**22  # logits of a transducer at once


def align_arcs(blank: np.ndarray, label: np.ndarray, topology: str = "regular") -> List[int]:
    """The frames in which the labels of a lattice are emitted on its most probable path (Viterbi).

    Args:
        blank: `[T, U + 1]` log-probabilities of the arcs to the next frame, finite.
        label: `[T, U]` of those of the next label, finite.
        topology: in the `modified` one a label leads to the next frame, too.

    Raises ColldError: no path leads through so few frames.
    """
    frames, labels = len(blank), blank.shape[1] - 1
    if frames < (labels if topology == "modified" else 1):
        raise ColldError(f"{labels} tokens have no path of {frames} frames")
    return (_align_modified if topology == "modified" else _align_regular)(blank, label)


def _align_regular(blank: np.ndarray, label: np.ndarray) -> List[int]:
    frames, width = blank.shape
    by_label = np.zeros((frames, width), dtype=bool)
    best = np.full(width, -np.inf)  # on entering a frame
    best[0] = 0.0
    for t in range(frames):
        # Column u may be reached from any before it in the same frame: C_u + max over j <= u of (best_j - C_j).
        sums = np.concatenate(([0.0], np.cumsum(label[t])))
        relative = best - sums
        highest = np.maximum.accumulate(relative)
        by_label[t] = highest > relative
        best = highest + sums + blank[t]
    t, u, emitted = frames - 1, width - 1, [0] * (width - 1)
    while u > 0:
        if by_label[t, u]:
            u -= 1
            emitted[u] = t
        else:
            t -= 1
    return emitted


def _align_modified(blank: np.ndarray, label: np.ndarray) -> List[int]:
    frames, width = blank.shape
    by_label = np.zeros((frames, width), dtype=bool)
    best = np.full(width, -np.inf)
    best[0] = 0.0
    for t in range(frames):
        stay, go = best + blank[t], np.concatenate(([-np.inf], best[:-1] + label[t]))
        by_label[t] = go > stay
        best = np.maximum(stay, go)
    u, emitted = width - 1, [0] * (width - 1)
    for t in range(frames - 1, -1, -1):
        if by_label[t, u]:
            u -= 1
            emitted[u] = t
    return emitted


@torch.no_grad()
def align_ctc_model(model, source: Tensor, lengths: Tensor, tokens: Sequence[int], blank: int) -> List[int]:
    """Frames at which tokens begin, by a model's `get_ctc_log_probs` on one utterance."""
    log_probs, frames = model.get_ctc_log_probs(source, lengths)
    return align_labels(log_probs[0, : int(frames[0])].double().cpu().numpy(), tokens, blank)[0]


@torch.no_grad()
def align_transducer_model(
    model, source: Tensor, lengths: Tensor, tokens: Sequence[int], blank: int, tag: Optional[int] = None
) -> List[int]:
    """Frames in which tokens are emitted by a `transducer_student` on one utterance; tag: of the target language."""
    encoded, frames = model.encode_for_search(source, lengths)
    labels = torch.tensor(tokens, dtype=torch.int64, device=encoded.device)
    first = torch.tensor([0, *([] if tag is None else [tag])], device=encoded.device)
    symbols = model.joiner.predictor_projection(model.predict_all(torch.cat((first, labels))[None]))[0]
    blank_arcs, label_arcs = _arcs(model, encoded[0, : int(frames[0])], symbols, labels, blank)
    return align_arcs(blank_arcs, label_arcs, model.topology)


def _arcs(model, frames: Tensor, symbols: Tensor, labels: Tensor, blank: int) -> Tuple[np.ndarray, np.ndarray]:
    """Log-probabilities `[T, U + 1]` and `[T, U]` of blanks and next labels; some frames at a time."""
    blanks, next_labels = [], []
    step = max(PIECE // (len(symbols) * len(model.joiner.output.weight)), 1)
    for piece in frames.split(step):
        log_probs = model.join(piece[:, None], symbols).double().log_softmax(-1)
        blanks.append(log_probs[..., blank])
        next_labels.append(
            log_probs[:, : len(labels)].gather(2, labels[None, :, None].expand(len(piece), -1, 1))[..., 0]
        )
    return torch.cat(blanks).cpu().numpy(), torch.cat(next_labels).cpu().numpy()
