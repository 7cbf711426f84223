"""Reading every utterance of a manifest: in which order, ahead of its use, and which of them cannot be used."""

import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from colld_fairseq.data.audio import SAMPLE_RATE, read_audio
from colld_fairseq.data.manifest import require_waveforms
from colld_fairseq.errors import AudioError

READERS = 2  # threads that read audio while the model computes
AHEAD = 4  # batches that are read before they are asked for
SHOWN = 10  # unusable utterances listed at the end


class Utterance(NamedTuple):
    """A row of the manifest whose audio is being read: `waveform.result()` is float32 [N], or raises AudioError."""

    id: str
    waveform: "Future[np.ndarray]"


def distinct_rows(ids: Sequence[str]) -> np.ndarray:
    """Rows without repetitions of an id (the same utterance with several translations)."""
    first: Dict[str, int] = {}
    for row, name in enumerate(ids):
        first.setdefault(name, row)
    return np.fromiter(first.values(), dtype=np.int64)


def sample_rows(rows: np.ndarray, n_samples: np.ndarray, max_seconds: Optional[float], seed: int) -> np.ndarray:
    """Rows drawn without replacement until `max_seconds` of audio are reached, in the manifest's order.

    All rows where `max_seconds` is None or more than there is; at least one row.
    """
    if max_seconds is None:
        return rows
    drawn = np.random.default_rng(seed).permutation(rows)
    seconds = np.cumsum(n_samples[drawn]) / SAMPLE_RATE
    return np.sort(drawn[: max(1, int(np.searchsorted(seconds, max_seconds, side="right")))])


def plan_batches(rows: np.ndarray, n_samples: np.ndarray, max_samples: float) -> Iterator[np.ndarray]:
    """Rows of similar length, at most `max_samples` with padding (a longer utterance alone), longest first."""
    rows = rows[np.argsort(-n_samples[rows], kind="stable")]
    start = 0
    while start < len(rows):
        size = max(1, int(max_samples // max(1, n_samples[rows[start]])))
        yield rows[start : start + size]
        start += size


def read_ahead(manifest, ids: Sequence[str], batches: Iterable[np.ndarray]) -> Iterator[List[Utterance]]:
    """The utterances of each batch of rows, in order; threads read AHEAD batches before they are asked for.

    ManifestError where rows have no audio but stored filterbanks.
    """
    require_waveforms(manifest, "this command")
    readers = ThreadPoolExecutor(READERS)
    waiting: "deque[List[Utterance]]" = deque()
    try:
        for batch in batches:
            paths = [(ids[row], manifest.audio_path(row)) for row in batch]
            waiting.append([Utterance(name, readers.submit(read_audio, path)) for name, path in paths])
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    except BaseException:  # whoever stops early does not wait for what nobody will use
        readers.shutdown(wait=False, cancel_futures=True)
        raise
    readers.shutdown(wait=False)  # what was handed out may still be read


def usable(
    utterances: Sequence[Utterance],
    output_lengths: Callable[[Tensor], Tensor],
    bad: Dict[str, str],
    max_samples: float = math.inf,
) -> Tuple[List[str], List[Tensor]]:
    """Ids and waveforms [N] of the utterances that can be read, give a frame and are not too long; the others are
    entered in `bad`.

    output_lengths: samples int64 [B] -> frames [B], as a teacher or a student has it. max_samples: of `StudentInput`.
    """
    ids, waveforms = [], []
    for utterance in utterances:
        try:
            waveform = torch.from_numpy(utterance.waveform.result())
        except AudioError as error:
            bad[utterance.id] = str(error)
            continue
        if int(output_lengths(torch.tensor([len(waveform)]))) < 1:
            bad[utterance.id] = f"{len(waveform)} samples are too few for one frame"
            continue
        if len(waveform) > max_samples:
            longest, seconds = max_samples / SAMPLE_RATE, len(waveform) / SAMPLE_RATE
            bad[utterance.id] = f"{seconds:.2f} s are too long for the encoder, which takes in {longest:g} s: cut it"
            continue
        ids.append(utterance.id)
        waveforms.append(waveform)
    return ids, waveforms


def usable_batches(
    manifest,
    ids: Sequence[str],
    batches: Iterable[np.ndarray],
    output_lengths,
    bad,
    advance: Callable[[int, float], None],
    max_samples: float = math.inf,
) -> Iterator[Tuple[List[str], List[Tensor]]]:
    """Ids and waveforms of each batch of rows, as `usable` gives them; bad (`BadUtterances` or a dictionary) gets the
    others. Calls advance(utterances, seconds) once a batch was used."""
    for utterances in read_ahead(manifest, ids, batches):
        failed: Dict[str, str] = {}
        names, waveforms = usable(utterances, output_lengths, failed, max_samples)
        bad.update(failed)
        yield names, waveforms
        advance(len(utterances), sum(map(len, waveforms)) / SAMPLE_RATE)


class BadUtterances:
    """Utterances that cannot be used, with the reason; more than `max_share` of all rows (at least one) are fatal."""

    def __init__(self, rows: int, max_share: float):
        self.rows, self.limit = rows, max(1, int(max_share * rows))
        self.reasons: Dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def update(self, reasons: Dict[str, str]) -> None:
        """Note {id: reason}; raises AudioError once there are too many."""
        self.reasons.update(reasons)
        if len(self) > self.limit:
            raise AudioError(self.report(f"more than the {self.limit} that --max-bad allows"))

    def report(self, verdict: str) -> str:
        """The message: how many, the verdict, the first SHOWN of them."""
        lines = [f"  {name}: {reason}" for name, reason in list(self.reasons.items())[:SHOWN]]
        more = [f"  and {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return "\n".join([f"{len(self)} of {self.rows} utterances cannot be used, {verdict}:", *lines, *more])
