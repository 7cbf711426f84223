"""Before training: its most demanding batches forward and backward, and the largest --max-tokens that memory allows.

They are run as in the last update, when nothing is frozen any more (--freeze-encoder-updates, --front-end-updates).
Nothing of it stays: no update is made, and fairseq seeds torch's generators at every update.
"""

import logging
from typing import Callable, List, NamedTuple, Optional

import numpy as np
import torch

from colld_fairseq.compat import prepared
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.errors import ConfigError
from colld_fairseq.profiling import memory_in_use, usable_memory, working_memory

logger = logging.getLogger(__name__)

GB = 1e9
LOOKED_AT = 20  # batches with the most audio, whose targets are looked at, too
CLOSE = 1.05  # the search ends where what fits and what does not are this near
ATTEMPTS = 12
FIRST, MOST = 1.25, 3  # by how much the first batch that is tried is larger at least, and any at most
STEP = 1000  # --max-tokens is a multiple of it
LATE = 10**9  # an update that no run without --max-update reaches
KEPT_BY_ADAM = 2 * 4  # bytes per parameter: two moments, in single precision, from the first update on
REMEDY = "lower --max-tokens or --max-seconds, or give --checkpoint-activations"


class Need(NamedTuple):
    """What a dry run with so many `tokens` per batch takes: bytes in all, None where they were not there."""

    tokens: int
    bytes: Optional[int]


class DryRun:
    """Batches of a trainer's training set, run without an update.

    gb: memory that there shall be; None = all of the GPU, or what the machine has left.
    Raises ConfigError where memory cannot be measured here.
    """

    def __init__(self, trainer, dataset, gb: Optional[float] = None) -> None:
        self.trainer, self.dataset, self.device = trainer, dataset, trainer.device
        self.last_update = max(trainer.get_num_updates(), (trainer.cfg.optimization.max_update or LATE) - 1)
        self.limit = usable_memory(self.device) if gb is None else int(gb * GB)
        if self.limit is None or memory_in_use(self.device) is None:
            raise ConfigError("--dry-run needs a GPU or Linux, where memory can be measured: leave it out")
        self.moments: List[torch.Tensor] = []
        if trainer.get_num_updates() == 0:  # else the optimizer has them
            weights = sum(value.numel() for value in trainer.get_model().parameters() if value.requires_grad)
            self.moments.append(torch.ones(KEPT_BY_ADAM * weights, dtype=torch.uint8, device=self.device))

    def worst(self) -> Need:
        """Of the training's own batches. ConfigError where they do not fit."""
        cfg = self.trainer.cfg.dataset
        need = self.need(cfg.max_tokens)
        if need.bytes is None or need.bytes > self.limit:
            raise ConfigError(f"dry run: {self.tell(need)}: {REMEDY} (--dry-run largest finds what fits)")
        return need

    def largest(self) -> Need:
        """The greatest number of tokens per batch that fits. ConfigError where the longest utterance alone does not."""
        sizes = self.dataset.sizes[self.dataset.ordered_indices()]
        alone = self.need(int(sizes.max()))
        if alone.bytes is None or alone.bytes > self.limit:
            raise ConfigError(f"dry run: the longest utterance alone: {self.tell(alone)}: {REMEDY}")
        return largest_that_fits(self.need, alone, len(sizes) * int(sizes.max()), self.limit)

    def need(self, tokens: Optional[int]) -> Need:
        batches = worst_batches(self.dataset, tokens, self.trainer.cfg.dataset.batch_size)
        before = memory_in_use(self.device)
        try:
            more = working_memory(lambda: [self.run(batch) for batch in batches], self.device)
        except torch.OutOfMemoryError:
            more = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        need = Need(tokens or 0, None if more is None else before + more)
        logger.info("dry run: %s; %s", self.tell(need), describe(self.dataset, batches[0]))
        return need

    def run(self, batch: np.ndarray) -> None:
        """A batch forward and backward, as in the last update."""
        trainer = self.trainer
        trainer.model.train()
        trainer.criterion.train()
        sample = prepared(trainer, self.dataset.collater([self.dataset[index] for index in batch]))
        try:
            trainer.task.train_step(
                sample, trainer.model, trainer.criterion, trainer.optimizer, self.last_update, ignore_grad=False
            )
        finally:
            trainer.get_model().set_num_updates(trainer.get_num_updates())
            trainer.zero_grad()

    def tell(self, need: Need) -> str:
        took = "more than there is" if need.bytes is None else f"{need.bytes / GB:.2f} GB"
        of = f"--max-tokens {need.tokens}" if need.tokens else "the largest batch"
        return f"{of} takes {took} of {self.limit / GB:.2f} GB"


def describe(dataset, batch: np.ndarray) -> str:
    seconds = len(batch) * int(dataset.num_tokens_vec(batch).max()) / SAMPLE_RATE
    return f"largest batch: {len(batch)} utterances, {seconds:.1f} s with padding"


def worst_batches(dataset, max_tokens: Optional[int], max_sentences: Optional[int]) -> List[np.ndarray]:
    """The batches of an epoch, as indices, that need most memory by one of: audio with padding; pairs of frames, of
    which attention has scores; pairs of frames and labels, of which transducers have logits."""
    indices = dataset.ordered_indices()
    if max_tokens is not None:  # fairseq leaves longer utterances out
        indices = indices[dataset.num_tokens_vec(indices) <= max_tokens]
    batches = dataset.batch_by_size(indices, max_tokens, max_sentences)
    longest = np.array([int(dataset.num_tokens_vec(np.asarray(batch)).max()) for batch in batches])
    padded = longest * np.array([len(batch) for batch in batches])
    chosen = [int(padded.argmax()), int((padded * longest.astype(float)).argmax())]
    most = np.argsort(-padded, kind="stable")[:LOOKED_AT]
    labels = [max(dataset.target_length(int(index)) for index in batches[one]) for one in most]
    chosen.append(int(most[int((padded[most] * np.array([1 + count for count in labels])).argmax())]))
    return [np.asarray(batches[one]) for one in dict.fromkeys(chosen)]


def largest_that_fits(need: Callable[[int], Need], least: Need, all_tokens: int, limit: int) -> Need:
    """The greatest number of tokens whose need is within the limit, to a few per cent; `least` is known to fit, and
    there are no more than `all_tokens`.

    Need grows with the tokens, by and large as a straight line, which says where to look next: on a CPU nothing that is
    much too large is ever tried, since the machine itself would suffer.
    """
    fits, slope, too_many = least, None, None
    for _ in range(ATTEMPTS):
        if fits.tokens >= all_tokens:
            break
        if slope is None:  # not known how much of it is there whatever the batch
            guess = fits.tokens * min(2.0, max(FIRST, limit / fits.bytes))
        else:
            guess = min(fits.tokens + (limit - fits.bytes) / slope, MOST * fits.tokens)
        if too_many is not None and guess >= too_many.tokens:
            guess = (fits.tokens + too_many.tokens) / 2
        guess = min(int(guess) // STEP * STEP, -(-all_tokens // STEP) * STEP)
        if guess < CLOSE * fits.tokens:
            break
        tried = need(guess)
        if tried.bytes is None or tried.bytes > limit:
            too_many = tried
        else:
            fits, before = tried, fits
            slope = max((fits.bytes - before.bytes) / (fits.tokens - before.tokens), 1.0)
    return fits
