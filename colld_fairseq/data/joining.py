"""Utterances joined to longer ones, in training: a student that has only seen short ones fails at positions that it has
never been trained at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from fairseq.data import FairseqDataset

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.datasets import SpeechDataset
from colld_fairseq.data.manifest import AnyManifest, Row
from colld_fairseq.data.seams import join_parts
from colld_fairseq.errors import AudioError


class Window(NamedTuple):
    """Rows that are joined, and how many samples they have, with silence and perturbed, at most."""

    rows: Tuple[int, ...]
    n_samples: int
    padded: bool

    def audio(self, waveforms: Sequence[np.ndarray], max_samples: int) -> np.ndarray:
        """One waveform [N] of those of its rows, with silence or, where they are too long, without their end."""
        joined = np.concatenate(waveforms)[:max_samples]
        return np.pad(joined, (0, max_samples - len(joined))) if self.padded else joined


@dataclass(frozen=True)
class Joining:
    """How utterances become windows. All of it is our choice."""

    max_seconds: float
    """Of a window. Each takes utterances until it has as many seconds as are drawn for it, uniformly from 0 to this."""
    padded: float = 0.0
    """Share of windows that silence fills up to `max_seconds`."""
    stretch: float = 1.0
    """Factor by which perturbation may lengthen utterances: no window gets more than fit in after it."""

    @property
    def max_samples(self) -> int:
        return int(self.max_seconds * SAMPLE_RATE)

    def windows(
        self, rows: np.ndarray, n_samples: np.ndarray, groups: np.ndarray, rng: np.random.Generator
    ) -> List[Window]:
        """All `rows`, in their order, as windows of rows of one group; n_samples, groups: of every row there is."""
        windows: List[Window] = []
        longest = np.ceil(n_samples * self.stretch).astype(np.int64)
        for group in np.unique(groups[rows]):
            joined: List[int] = []
            samples, limit = 0, 0.0
            for row in rows[groups[rows] == group].tolist():
                if joined and (samples >= limit or samples + longest[row] > self.max_samples):
                    windows.append(self.window(joined, samples, rng))
                    joined, samples = [], 0
                if not joined:
                    limit = rng.uniform(0, self.max_samples)
                joined.append(row)
                samples += int(longest[row])
            windows.append(self.window(joined, samples, rng))
        return windows

    def window(self, rows: Sequence[int], samples: int, rng: np.random.Generator) -> Window:
        padded = bool(rng.random() < self.padded)
        return Window(tuple(rows), self.max_samples if padded else min(samples, self.max_samples), padded)


def groups_of(manifest: AnyManifest) -> np.ndarray:
    """A number for the language pair of each row, int64 [rows]."""
    languages, _ = manifest.codes("src_lang")
    targets, names = manifest.codes("tgt_lang")
    return languages * max(1, len(names)) + targets


class JoinedUtterances(FairseqDataset):
    """The training utterances of `dataset`, joined anew every epoch: windows take the place of its rows, in batches as
    it makes them. What is left of a window when some of its utterances cannot be read is used."""

    def __init__(self, dataset: SpeechDataset, joining: Joining) -> None:
        super().__init__()
        self.dataset, self.joining = dataset, joining
        self.groups = groups_of(dataset.rows)
        self.set_epoch(1)

    @property
    def options(self):
        return self.dataset.options

    @property
    def bad_audio(self):
        return self.dataset.bad_audio

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)
        generator = np.random.default_rng((self.options.seed, epoch))
        rows = self.options.epoch_rows(epoch)
        self.windows = self.joining.windows(rows, self.dataset.sizes, self.groups, generator)
        self.sizes = np.array([window.n_samples for window in self.windows])
        self.shuffled = generator.permutation(len(self.windows))

    can_reuse_epoch_itr_across_epochs = False

    def __len__(self) -> int:
        return len(self.windows)

    def num_tokens(self, index: int) -> int:
        return int(self.sizes[index])

    def num_tokens_vec(self, indices) -> np.ndarray:
        return self.sizes[indices]

    size = num_tokens

    def target_length(self, index: int) -> int:
        return sum(self.dataset.target_length(row) for row in self.windows[index].rows)

    def ordered_indices(self) -> np.ndarray:
        """Windows by length, equal ones in random order; fairseq shuffles the batches afterwards."""
        return self.shuffled[np.argsort(self.sizes[self.shuffled], kind="stable")]

    def __getitem__(self, index: int) -> Optional[Dict]:
        """One window as an item of the dataset, or None where none of its audio can be read."""
        index, dataset = int(index), self.dataset
        generator = self.draws(index)
        joined = self.read_window(index, generator)
        return None if joined is None else dataset.augmented(dataset.make_item(index, *joined), generator)

    def draws(self, index: int) -> np.random.Generator:
        """Of what training does to a window."""
        return np.random.default_rng((self.options.seed, self.dataset.epoch, index, 1))

    def as_read(self, index: int) -> Tuple[Row, np.ndarray]:
        """One row for a window, and its recording as the models get it. Raises AudioError."""
        joined = self.read_window(index, self.draws(index))
        if joined is None:
            raise AudioError("none of the utterances of the window can be read")
        return joined

    def read_window(self, index: int, generator: np.random.Generator) -> Optional[Tuple[Row, np.ndarray]]:
        """One row for the utterances of a window that can be read, and their recording; None where none can be."""
        window, dataset, rows, pieces = self.windows[index], self.dataset, [], []
        for each in window.rows:
            if dataset.bad_audio.is_bad(each):
                continue
            row = dataset.rows.row(each)
            try:
                pieces.append(dataset.recording(each, row, keep=True, generator=generator))
                rows.append(row)
            except AudioError as error:
                dataset.bad_audio.report(each, row.id, error)
        if not rows:
            return None
        return join(rows), window.audio(pieces, self.joining.max_samples)

    def collater(self, items: Sequence[Optional[Dict]]) -> Dict:
        return self.dataset.collater(items)


def join(rows: Sequence[Row]) -> Row:
    """One row for several of one language pair; what is said of single ones is said of the first."""
    first = rows[0]
    return first._replace(
        id="+".join(row.id for row in rows),
        n_samples=sum(row.n_samples for row in rows),
        tgt_text=join_parts(row.tgt_text for row in rows),
        src_text=join_parts(row.src_text for row in rows),
    )
