"""Where `colld cluster` takes frames from: a cache of `colld features`, or a teacher that runs along."""

from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np
import torch

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import AnyManifest
from colld_fairseq.data.utterances import distinct_rows, plan_batches, read_ahead, usable
from colld_fairseq.teachers import Teacher
from colld_fairseq.teachers.cache import FeatureCache

Advance = Callable[[int, float], None]  # told of every so many utterances and seconds of audio that were read


class Corpus(NamedTuple):
    """Utterances to read, each id once: ids, samples [len(ids)] and the manifest (None: a cache without one)."""

    ids: List[str]
    n_samples: np.ndarray
    rows: np.ndarray
    manifest: Optional[AnyManifest]

    @classmethod
    def of(cls, manifest: AnyManifest) -> "Corpus":
        ids = manifest.ids
        return cls(ids, manifest.n_samples, distinct_rows(ids), manifest)

    @property
    def seconds(self) -> float:
        return float(self.n_samples[self.rows].sum() / SAMPLE_RATE)


class CacheSource:
    """Frames of one layer of a cache. Utterances that gave no features are entered in `bad`."""

    def __init__(self, directory: Path, layer: int, teacher: Optional[str] = None, kind: Optional[str] = None):
        self.cache = FeatureCache.open(directory, teacher, [layer], kind)
        header = self.cache.header
        self.layer, self.kind, self.frame_rate_hz = layer, header.kind, header.frame_rate_hz
        self.spec, self.content_hash, self.width = header.teacher, header.content_hash, header.width
        self.bad: Dict[str, str] = {}

    def everything(self) -> Corpus:
        """All utterances of the cache."""
        ids = list(self.cache.places)
        frames = np.array([self.cache.places[name].frames for name in ids], dtype=np.int64)
        samples = (frames * (SAMPLE_RATE / self.frame_rate_hz)).astype(np.int64)
        return Corpus(ids, samples, np.arange(len(ids)), None)

    def read(self, corpus: Corpus, rows: np.ndarray, advance: Advance) -> Iterator[Tuple[str, np.ndarray]]:
        """(id, features float32 [T, D]) of each row that has some."""
        for row in rows.tolist():
            name = corpus.ids[row]
            if name in self.cache.bad:
                self.bad[name] = self.cache.bad[name]
            else:
                yield name, self.cache.read([name]).features[self.layer][0].numpy()
            advance(1, corpus.n_samples[row] / SAMPLE_RATE)


class FrameSource:
    """Frames of one layer of a teacher that runs on the audio. Utterances that cannot be used are entered in `bad`."""

    def __init__(self, teacher: Teacher, batch_seconds: float):
        self.teacher, self.batch_seconds = teacher, batch_seconds
        self.layer, self.kind, self.frame_rate_hz = teacher.layers[0], teacher.kind, teacher.frame_rate_hz
        self.spec, self.content_hash, self.width = teacher.spec, teacher.content_hash, teacher.width
        self.bad: Dict[str, str] = {}

    def read(self, corpus: Corpus, rows: np.ndarray, advance: Advance) -> Iterator[Tuple[str, np.ndarray]]:
        """(id, features float32 [T, D]) of each row that has some; longest utterances first."""
        batches = plan_batches(rows, corpus.n_samples, self.batch_seconds * SAMPLE_RATE)
        for utterances in read_ahead(corpus.manifest, corpus.ids, batches):
            ids, waveforms = usable(utterances, self.teacher.output_lengths, self.bad)
            if ids:
                lengths = torch.tensor([len(waveform) for waveform in waveforms])
                padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(self.teacher.device)
                output = self.teacher(padded, lengths).checked(ids, f"teacher {self.spec}")
                features = output.features[self.layer].float().cpu().numpy()
                for name, utterance, frames in zip(ids, features, output.lengths.tolist()):
                    yield name, utterance[:frames]
            advance(len(utterances), sum(map(len, waveforms)) / SAMPLE_RATE)


Source = Union[CacheSource, FrameSource]
