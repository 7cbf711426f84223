"""What is kept of an update without a finite loss or gradient: its utterances as a manifest, with their audio, to look
at and to train on, and which of them fail alone.

fairseq itself leaves out updates whose gradients overflow with --fp16, until its scale is at the least: those are
normal, and nothing is kept of them.
"""

from pathlib import Path
from typing import Iterable, Iterator, List, NamedTuple

import numpy as np
import soundfile
import torch

from colld_fairseq.compat import finite, prepared
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.datasets import samples_in
from colld_fairseq.data.manifest import Row
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.errors import ColldError

MANIFEST = "batch.tsv"
FINITE = "finite"
SHOWN = 5  # utterances that the message names


class Kept(NamedTuple):
    """An utterance of the update: its row, whose audio is the copy, the greatest value of its recording, and what came
    of it alone."""

    row: Row
    peak: float
    alone: str


def explain_nan(trainer, dataset, update: int, batches: Iterable, error: FloatingPointError) -> str:
    """Writes the utterances of an update's `batches` to a folder beside the checkpoints, which has the number of the
    `update`, from 1; returns the message of its `error` with the folder, the utterances to look at, and the remedy."""
    folder = Path(trainer.cfg.checkpoint.save_dir) / f"nan_update{update}_worker{trainer.data_parallel_rank}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept = list(keep(folder, trainer, dataset, indices_of(batches)))
        columns = {"peak": [f"{one.peak:.6g}" for one in kept], "alone": [one.alone for one in kept]}
        write_manifest(folder / MANIFEST, [one.row for one in kept], more=columns)
    except (OSError, soundfile.SoundFileError) as failure:  # a full disk shall not hide the error itself
        return f"{error}. Its utterances could not be kept in {folder}: {failure}"
    return f"{error}. {verdict(kept)}. They are in {folder / MANIFEST}, with their audio"


def indices_of(batches: Iterable) -> List[int]:
    """Of the dataset, each once; of batches that another worker has and this one has not, none."""
    return list(dict.fromkeys(index for batch in batches if batch for index in batch["id"].tolist()))


def keep(folder: Path, trainer, dataset, indices: Iterable[int]) -> Iterator[Kept]:
    for position, index in enumerate(indices):
        try:
            row, recording = dataset.as_read(index)
        except ColldError:  # gone since
            continue
        name = f"{position:03d}.{'npy' if recording.ndim == 2 else 'wav'}"
        if recording.ndim == 2:
            np.save(folder / name, recording)
        else:
            soundfile.write(folder / name, recording, SAMPLE_RATE, subtype="FLOAT")
        peak = float(np.abs(recording).max(initial=0.0))
        yield Kept(row._replace(audio=name, n_samples=samples_in(recording)), peak, alone(trainer, dataset, index))


def alone(trainer, dataset, index: int) -> str:
    """What comes of an utterance as a batch of its own: "finite", or what is not, loss or gradient."""
    model, criterion = trainer.get_model(), trainer.get_criterion()
    try:
        loss = criterion(model, prepared(trainer, dataset.collater([dataset[index]])))[0]
        if not finite(loss):
            return f"loss {float(loss.detach())}"
        # Not `backward`: the wrappers of several workers would wait for the others.
        weights = [value for value in model.parameters() if value.requires_grad]
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    except (RuntimeError, ValueError, ArithmeticError) as failure:
        # Too short for this loss when it is alone, out of memory, ...
        return f"failed: {failure}"
    return FINITE if all(map(finite, gradients)) else "gradient NaN or Inf"


def verdict(kept: List[Kept]) -> str:
    """Who makes it, and the remedy."""
    suspects = [one.row.id for one in kept if one.alone != FINITE]
    if not suspects:
        return f"None of the update's {len(kept)} utterances makes it alone: a lower --lr or --clip-norm is the remedy"
    if len(suspects) == len(kept) > 1:
        return (
            f"All of the update's {len(kept)} utterances make it alone: the weights themselves are at fault; start from"
            " an earlier checkpoint with a lower --lr or a longer warm-up"
        )
    shown = ", ".join(suspects[:SHOWN]) + (f" and {len(suspects) - SHOWN} more" if len(suspects) > SHOWN else "")
    return (
        f"Of the update's {len(kept)} utterances these make it alone: {shown}; look at their audio and text, then mend"
        " or remove their rows"
    )
