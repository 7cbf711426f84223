"""The passes of `colld cluster` over a corpus, which can be stopped and taken up again.

Utterances are shuffled anew for every pass and read in shards of about ten minutes of audio; the frames of a shard,
shuffled too, are the buffer that k-means sees. After a shard, at most every SAVE_SECONDS, everything the rest
depends on is written to a state file. The order of utterances and frames depends on seed, pass and shard alone, so a
fit that was stopped ends with the same numbers.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.utterances import BadUtterances
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import write_atomically
from colld_fairseq.parsing import parse_json
from colld_fairseq.teachers.cache_files import plan_parts
from colld_fairseq.teachers.clustering import FrameClustering
from colld_fairseq.teachers.codebook import Codebook, CodebookHeader, FitSettings
from colld_fairseq.teachers.frame_source import Advance, Corpus, Source

SAMPLE_FRAMES = 200  # a cluster, of the sample that the first centroids come from
FEWEST_FRAMES = 10  # a cluster
SAVE_SECONDS = 30.0


@dataclass
class _Position:
    """Where a fit is: the pass and the shard that come next, frames seen, the inertia summed over the `measured`
    frames of the last pass, and utterances that could not be used."""

    number: int = 0
    shard: int = 0
    frames: int = 0
    inertia: float = 0.0
    measured: int = 0
    bad: Dict[str, str] = field(default_factory=dict)


class ClusterFit:
    """One fit: `resume`, then `run` does what is left of it."""

    def __init__(self, source: Source, corpus: Corpus, settings: FitSettings, max_bad: float, state: Path):
        self.source, self.corpus, self.settings, self.path = source, corpus, settings, state
        self.clustering = FrameClustering(settings.num_clusters, settings.seed)
        self.position = _Position()
        self.bad = BadUtterances(len(corpus.rows), max_bad)

    def resume(self) -> bool:
        """Take up the fit that was stopped, if there is one. Raises ConfigError where its state is that of another."""
        if self.path.is_file():
            self._load()
        return self.path.is_file()

    def run(self, advance: Advance) -> Codebook:
        """The codebook. Raises ConfigError (too few frames), AudioError (bad utterances)."""
        saved = time.monotonic()
        waiting: List[np.ndarray] = []  # buffers of the sample, until there are enough for the first centroids
        for pass_index, shard, shards, rows in self._shards():
            waiting.append(self._frames(pass_index, shard, rows, advance))
            if not self.clustering.started:
                total = sum(map(len, waiting))
                if total < SAMPLE_FRAMES * self.settings.num_clusters and shard + 1 < shards:
                    continue
                self._start(waiting, total)
            while waiting:
                self._update(waiting.pop(0), last=pass_index == self.settings.passes - 1)
            done = shard + 1 == shards
            self.position.number, self.position.shard = (pass_index + 1, 0) if done else (pass_index, shard + 1)
            if time.monotonic() - saved >= SAVE_SECONDS:
                self._save()
                saved = time.monotonic()
        return self._codebook()

    def finish(self) -> None:
        """Removes the state: the codebook is written."""
        self.path.unlink(missing_ok=True)

    def _plan(self, pass_index: int) -> List[np.ndarray]:
        """Rows of each shard of a pass."""
        rows = np.random.default_rng((self.settings.seed, pass_index)).permutation(self.corpus.rows)
        return plan_parts(rows, self.corpus.n_samples)

    def _shards(self) -> Iterator[Tuple[int, int, int, np.ndarray]]:
        """(pass, shard, shards of the pass, rows) of all that is left."""
        first = self.position.shard
        for pass_index in range(self.position.number, self.settings.passes):
            shards = self._plan(pass_index)
            for shard in range(first, len(shards)):
                yield pass_index, shard, len(shards), shards[shard]
            first = 0

    def left(self) -> Tuple[int, float]:
        """Utterances and seconds of audio that are left."""
        done = self._plan(self.position.number)[: self.position.shard]
        rows = np.concatenate([*done, self.corpus.rows[:0]])
        passes = self.settings.passes - self.position.number
        seconds = self.corpus.n_samples[rows].sum() / SAMPLE_RATE
        return passes * len(self.corpus.rows) - len(rows), passes * self.corpus.seconds - seconds

    def _frames(self, pass_index: int, shard: int, rows: np.ndarray, advance: Advance) -> np.ndarray:
        """All frames [N, D] of the rows, in random order: neighbors are alike."""
        utterances = sorted(self.source.read(self.corpus, rows, advance), key=lambda utterance: utterance[0])
        self.bad.update(self.source.bad)
        if not utterances:
            return np.zeros((0, self.source.width), dtype=np.float32)
        frames = np.concatenate([features for _, features in utterances])
        return frames[np.random.default_rng((self.settings.seed, pass_index, shard)).permutation(len(frames))]

    def _start(self, sample: List[np.ndarray], total: int) -> None:
        if total < FEWEST_FRAMES * self.settings.num_clusters:
            most = total // FEWEST_FRAMES
            raise ConfigError(
                f"{total} frames are too few for {self.settings.num_clusters} clusters ({FEWEST_FRAMES} frames each); "
                f"give more audio" + (f" or at most --num-clusters {most}" if most else "")
            )
        self.clustering.start(np.concatenate(sample))

    def _update(self, frames: np.ndarray, last: bool) -> None:
        self.position.inertia += self.clustering.update(frames, measure=last)
        self.position.measured += len(frames) if last else 0
        self.position.frames += len(frames)

    def _codebook(self) -> Codebook:
        header = CodebookHeader(
            **asdict(self.settings),
            teacher=self.source.spec,
            frame_rate_hz=self.source.frame_rate_hz,
            frames=self.position.frames,
            inertia=self.position.inertia / self.position.measured,
        )
        arrays = self.clustering.centroids, self.clustering.mean, self.clustering.std
        return Codebook(*map(torch.from_numpy, arrays), header)

    def _save(self) -> None:
        self.position.bad = self.bad.reasons
        arrays, model = self.clustering.state()
        facts = {"settings": asdict(self.settings), "position": asdict(self.position), "model": model}
        write_atomically(self.path, save(arrays, {"colld": json.dumps(facts)}))

    def _load(self) -> None:
        try:
            with safe_open(self.path, framework="np") as handle:
                facts = parse_json(handle.metadata()["colld"])
                arrays = {name: handle.get_tensor(name) for name in handle.keys()}
            settings, position, model = FitSettings(**facts["settings"]), _Position(**facts["position"]), facts["model"]
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self.path}: not the state of a fit ({error}); delete it to begin anew") from error
        self.settings.must_equal(settings, self.path)
        self.position = position
        self.clustering.restore(arrays, model)
        self.bad.update(position.bad)
