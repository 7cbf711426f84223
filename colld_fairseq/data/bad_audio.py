"""Unreadable utterances: counted, named and, past a limit, fatal."""

from __future__ import annotations

import logging

import torch

from colld_fairseq.errors import AudioError

logger = logging.getLogger(__name__)


class BadAudioLedger:
    """Keeps which rows could not be read, across data-loading worker processes and epochs.

    The marks live in shared memory, one byte per row, so that every worker sees the total and an utterance that failed
    once is neither read nor reported again. `max_share` of all rows (at least one) may fail; the next is fatal.
    """

    def __init__(self, num_rows: int, max_share: float) -> None:
        self.limit = max(1, int(num_rows * max_share))
        self.marks = torch.zeros(num_rows, dtype=torch.uint8).share_memory_()

    def is_bad(self, index: int) -> bool:
        return bool(self.marks[index])

    @property
    def count(self) -> int:
        return int(self.marks.sum())

    def report(self, index: int, name: str, error: Exception) -> None:
        """Note that row `index` (utterance `name`) failed; raise AudioError once there are too many."""
        self.marks[index] = 1
        count = self.count
        logger.warning("skipping unreadable utterance %s (%d so far, limit %d): %s", name, count, self.limit, error)
        if count > self.limit:
            raise AudioError(
                f"{count} of {len(self.marks)} utterances cannot be read, more than the limit of {self.limit}; the "
                f"last is {name}: {error}. Check the manifest with `colld doctor --manifest`, or raise --max-bad-audio"
            ) from error
