"""fairseq datasets over manifests: audio for distillation, audio and text for recognition and translation.

A recording is what a row names: a waveform [N] at 16 kHz, or stored filterbanks [T, bins].
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from fairseq.data import FairseqDataset, data_utils

from colld_fairseq.data.audio import SAMPLE_RATE, read_audio
from colld_fairseq.data.augment import SpecAugment
from colld_fairseq.data.bad_audio import BadAudioLedger
from colld_fairseq.data.fbank import fbank_length, fbank_samples
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.manifest import Row
from colld_fairseq.data.nbest import NBestTargets
from colld_fairseq.data.perturbation import Perturbation
from colld_fairseq.data.rows import PathRows
from colld_fairseq.data.stored_fbank import read_stored_fbank
from colld_fairseq.errors import AudioError

logger = logging.getLogger(__name__)

# Utterances are batched with others of about their own length, but not always with the same ones: lengths are
# multiplied by a factor drawn from [1 - x, 1 + x] before sorting. Our choice.
LENGTH_JITTER = 0.1


@dataclass
class DatasetOptions:
    """What a SpeechDataset does beside reading."""

    train: bool = False
    """Crop at random, and take the rows that epoch_rows gives."""
    seed: int = 1
    """Of crops, SpecAugment and the order of rows."""
    spec_augment: Optional[SpecAugment] = None
    """Of filterbanks, in training."""
    perturbation: Optional[Perturbation] = None
    """Of waveforms, in training: student and online teacher take in the same."""
    max_samples: Optional[int] = None
    """Longer utterances are cropped: in training at random, else to their start."""
    keep_waveform: bool = False
    """Give waveforms too, for an online teacher."""
    teacher_input: Optional[StudentInput] = None
    """Input of an online teacher that does not take waveforms."""
    bad_audio_share: float = 0.001
    """Share of unreadable rows past which reading is fatal."""
    keep_in_memory: bool = False
    """Read and transform each utterance once in every loader process (for small corpora); of those that are perturbed
    or joined, only read."""
    epoch_rows: Optional[Callable[[int], np.ndarray]] = None
    """In training: epoch -> indices of its rows, in random order."""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """id -> why the utterance counts as unreadable."""


class SpeechDataset(FairseqDataset):
    """Audio rows of one or several manifests.

    A batch: `id` [B], `utt_id` (names), `net_input.src_tokens` ([B, T, 80] filterbanks or [B, N] waveforms, zero
    padded) and `src_lengths` [B], `samples` [B] of audio, `audio_seconds`, and, for an online teacher,
    `teacher_input.waveforms` [B, N] and `lengths` [B], or what a teacher transducer takes, without augmentation, as
    `src_tokens` and `src_lengths`. Inputs of teachers are float64: fairseq's --fp16/--bf16 rounds every float32 tensor
    of a batch to half precision, which would hand the teacher 8 to 11 bit audio.
    """

    def __init__(self, rows, student_input: StudentInput, options: DatasetOptions) -> None:
        super().__init__()
        self.rows = rows
        self.student_input = student_input
        self.options = options
        self.sizes = np.asarray(rows.n_samples)
        if options.max_samples is not None:
            self.sizes = np.minimum(self.sizes, options.max_samples)
        self.bad_audio = BadAudioLedger(len(rows), options.bad_audio_share)
        self.epoch = 1
        self.memory: Dict[int, Dict] = {}
        self.recordings: Dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def num_tokens(self, index: int) -> int:
        return int(self.sizes[index])

    def num_tokens_vec(self, indices) -> np.ndarray:
        return self.sizes[indices]

    size = num_tokens

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        return not self.options.train  # the order and the sample of rows change every epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def target_length(self, index: int) -> int:
        """Labels of an utterance; 0 where batches have none."""
        return 0

    def ordered_indices(self) -> np.ndarray:
        """Rows of this epoch, sorted by (jittered) length; fairseq shuffles the batches afterwards."""
        if not self.options.train:
            return np.argsort(self.sizes, kind="stable")
        indices = self.options.epoch_rows(self.epoch)
        generator = np.random.default_rng((self.options.seed, self.epoch))
        jitter = generator.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, len(indices))
        return indices[np.argsort(self.sizes[indices] * jitter, kind="stable")]

    def __getitem__(self, index: int) -> Optional[Dict]:
        """One utterance, or None when its audio cannot be read (see BadAudioLedger)."""
        index = int(index)
        if self.bad_audio.is_bad(index):
            return None
        row, generator = self.rows.row(index), self.draws(index)
        try:
            item = self.read_item(index, row, generator)
        except AudioError as error:
            self.bad_audio.report(index, row.id, error)
            return None
        return self.augmented(item, generator)

    def draws(self, index: int) -> Optional[np.random.Generator]:
        """Of what training does to an utterance: the same whichever worker reads it, and after a resume."""
        return np.random.default_rng((self.options.seed, self.epoch, index)) if self.options.train else None

    def as_read(self, index: int) -> Tuple[Row, np.ndarray]:
        """The row of an item and its recording as the models get it, perturbed and cropped. Raises AudioError."""
        row, generator = self.rows.row(index), self.draws(index)
        return row, self.crop(self.recording(index, row, keep=False, generator=generator), generator)

    def read_item(self, index: int, row: Row, generator: Optional[np.random.Generator]) -> Dict:
        """Audio as the student (and an online teacher) takes it; AudioError when the utterance cannot be read."""
        if index in self.memory:
            return dict(self.memory[index])
        perturbed = generator is not None and self.options.perturbation is not None
        whole = self.recording(index, row, keep=perturbed, generator=generator)
        cropped = self.crop(whole, generator)
        item = self.make_item(index, row, cropped)
        # A random crop differs every time, and so does what is perturbed.
        if self.options.keep_in_memory and not perturbed and len(cropped) == len(whole):
            self.memory[index] = dict(item)
        return item

    def recording(self, index: int, row: Row, keep: bool, generator: Optional[np.random.Generator]) -> np.ndarray:
        """What a row names, perturbed where a generator is given; keep: in memory, where the options want that."""
        recording = self.recordings.get(index)
        if recording is None:
            if row.id in self.options.unusable:
                raise AudioError(self.options.unusable[row.id])
            recording = read_recording(row, self.student_input)
            if keep and self.options.keep_in_memory:
                self.recordings[index] = recording
        if generator is not None and self.options.perturbation is not None:
            return self.options.perturbation(recording, generator)
        return recording

    def make_item(self, index: int, row: Row, recording: np.ndarray) -> Dict:
        """What the models take in of a recording."""
        item = {
            "index": index,
            "utt_id": row.id,
            "seconds": samples_in(recording) / SAMPLE_RATE,
            "source": self.student_input(recording),
        }
        if self.options.keep_waveform:
            item["waveform"] = recording
        teacher_input = self.options.teacher_input
        if teacher_input is not None:
            same = teacher_input == self.student_input
            item["teacher_source"] = item["source"] if same else teacher_input(recording)
        return item

    def augmented(self, item: Dict, generator: Optional[np.random.Generator]) -> Dict:
        augment = self.options.spec_augment if generator is not None else None
        if augment is not None and self.student_input.config.kind != "waveform":
            item["source"] = augment(item["source"], generator)
        return item

    def crop(self, recording: np.ndarray, generator: Optional[np.random.Generator]) -> np.ndarray:
        limit = self.options.max_samples
        if limit is None or samples_in(recording) <= limit:
            return recording
        if recording.ndim == 2:
            limit = fbank_length(limit)
        start = 0 if generator is None else int(generator.integers(len(recording) - limit + 1))
        return recording[start : start + limit]

    def readable(self, items: Sequence[Optional[Dict]]) -> List[Dict]:
        """The items that could be read. In training never none: fairseq cannot skip a batch if it is the first one, so
        the first utterance of the epoch that can be read takes its place."""
        readable = [item for item in items if item is not None]
        if readable or not self.options.train:
            return readable
        for index in self.options.epoch_rows(self.epoch):
            item = self[index]
            if item is not None:
                return [item]
        raise AudioError(f"{self.rows.path}: not one utterance of this epoch can be read")

    def collater(self, items: Sequence[Optional[Dict]]) -> Dict:
        items = self.readable(items)
        if not items:
            return {}  # fairseq skips an empty batch
        source, source_lengths = pad([item["source"] for item in items])
        batch = {
            "id": torch.tensor([item["index"] for item in items]),
            "utt_id": [item["utt_id"] for item in items],
            "nsentences": len(items),
            "ntokens": int(source_lengths.sum()),
            "audio_seconds": sum(item["seconds"] for item in items),
            "samples": torch.tensor([round(item["seconds"] * SAMPLE_RATE) for item in items]),
            "net_input": {"src_tokens": source, "src_lengths": source_lengths},
        }
        if self.options.keep_waveform:
            waveforms, lengths = pad([item["waveform"] for item in items])
            batch["teacher_input"] = {"waveforms": waveforms.double(), "lengths": lengths}
        if self.options.teacher_input is not None:
            inputs, lengths = pad([item["teacher_source"] for item in items])
            batch["teacher_input"] = {"src_tokens": inputs.double(), "src_lengths": lengths}
        return batch


class NamedAudioDataset(SpeechDataset):
    """Audio files that somebody names and waits for: read at once. The log says which cannot be; no batch has them."""

    def __init__(
        self, rows: PathRows, student_input: StudentInput, output_lengths: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """output_lengths: lengths of the student's input -> frames of its encoder, of which there has to be one."""
        super().__init__(rows, student_input, DatasetOptions(keep_in_memory=True))
        readable = []
        for index in range(len(rows)):
            row = rows.row(index)
            try:
                if not row.audio:
                    raise AudioError("an empty line; write the path of an audio file")
                item = self.read_item(index, row, None)
                if output_lengths(torch.tensor([len(item["source"])])) < 1:
                    raise AudioError(f"{row.audio}: {item['seconds']:.3f} s are too short for a frame of the encoder")
                self.sizes[index] = round(item["seconds"] * SAMPLE_RATE)
                readable.append(index)
            except AudioError as error:
                logger.warning("left out: %s", error)
        self.readable_rows = np.array(readable, dtype=np.int64)

    def ordered_indices(self) -> np.ndarray:
        return self.readable_rows[np.argsort(self.sizes[self.readable_rows], kind="stable")]


class SpeechToTextDataset(SpeechDataset):
    """Audio and text. Adds `target` [B, U], `target_lengths` [B], `ctc_target` [B, U'], `ctc_target_lengths` [B],
    `net_input.prev_output_tokens` [B, U], `src_langs`, `tgt_langs`, `src_texts`, `tgt_texts`; `ntokens` counts target
    tokens.

    `encode(row)` gives the decoder's token ids (language tag first where the task uses tags, end of sentence
    last), `encode_ctc(row)` the token ids CTC aligns with the audio, `prefix(row)`, if given, the ids [P] that a
    pretrained decoder gets first: `net_input.prefix_tokens` [B, P].

    With n-best lists a batch also has `nbest`, all M hypotheses of its utterances in order: `target` [M, U],
    `target_lengths` [M], `prev_output_tokens` [M, U], `utterances` int64 [M] (rows of the batch), `weights` float64
    [M]. An utterance without a list has its own target there.
    """

    def __init__(
        self,
        rows,
        student_input,
        options,
        dictionary,
        encode: Callable[[Row], torch.Tensor],
        encode_ctc: Callable[[Row], torch.Tensor],
        nbest: Optional[NBestTargets] = None,
        prefix: Optional[Callable[[Row], List[int]]] = None,
    ) -> None:
        super().__init__(rows, student_input, options)
        self.prefix = prefix
        self.nbest = nbest
        self.dictionary = dictionary
        self.encode = encode
        self.encode_ctc = encode_ctc

    def target_length(self, index: int) -> int:
        return len(self.encode(self.rows.row(index)))

    def make_item(self, index: int, row: Row, recording: np.ndarray) -> Dict:
        item = super().make_item(index, row, recording)
        item.update(target=self.encode(row), ctc_target=self.encode_ctc(row), row=row)
        if self.nbest is not None:
            hypotheses = self.nbest.of(index) or [(row.tgt_text, 1.0)]
            item["nbest"] = [(self.encode(row._replace(tgt_text=text)), weight) for text, weight in hypotheses]
        return item

    def collater(self, items: Sequence[Optional[Dict]]) -> Dict:
        items = self.readable(items)
        batch = super().collater(items)
        if not batch:
            return batch
        ctc_targets = [item["ctc_target"] for item in items]
        batch.update(self.collate_targets([item["target"] for item in items]))
        batch["net_input"]["prev_output_tokens"] = batch.pop("prev_output_tokens")
        if self.prefix is not None:
            batch["net_input"]["prefix_tokens"] = torch.tensor([self.prefix(item["row"]) for item in items])
        batch["ctc_target"] = data_utils.collate_tokens(ctc_targets, self.dictionary.pad())
        batch["ctc_target_lengths"] = torch.tensor([len(target) for target in ctc_targets])
        for name in ("src_lang", "tgt_lang", "src_text", "tgt_text"):
            batch[f"{name}s"] = [getattr(item["row"], name) for item in items]
        batch["ntokens"] = int(batch["target_lengths"].sum())
        if self.nbest is not None:
            counts = torch.tensor([len(item["nbest"]) for item in items])
            targets, weights = zip(*(pair for item in items for pair in item["nbest"]))
            utterances = torch.arange(len(items)).repeat_interleave(counts)
            weights = torch.tensor(weights, dtype=torch.float64)
            batch["nbest"] = {**self.collate_targets(targets), "utterances": utterances, "weights": weights}
        return batch

    def collate_targets(self, targets: Sequence[torch.Tensor]) -> Dict[str, torch.Tensor]:
        """`target` [M, U], `target_lengths` [M] and `prev_output_tokens` [M, U] of token ids that end with </s>."""
        pad_id, eos_id = self.dictionary.pad(), self.dictionary.eos()
        return {
            "target": data_utils.collate_tokens(targets, pad_id, eos_id),
            "target_lengths": torch.tensor([len(target) for target in targets]),
            "prev_output_tokens": data_utils.collate_tokens(targets, pad_id, eos_id, move_eos_to_beginning=True),
        }


def read_recording(row: Row, student_input: StudentInput) -> np.ndarray:
    """The waveform [N] of a row, or its stored filterbanks [T, bins]; AudioError as those who read them."""
    return read_stored_fbank(row.audio, student_input.config.bins) if row.kind == "fbank" else read_audio(row.audio)


def samples_in(recording: np.ndarray) -> int:
    """Length of a waveform [N], or of filterbanks [T, bins], in samples at 16 kHz."""
    return fbank_samples(len(recording)) if recording.ndim == 2 else len(recording)


def pad(arrays: List[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Zero-pad arrays of shape [N_i, ...] to one tensor [B, max N, ...]; return it and the lengths [B]."""
    lengths = torch.tensor([len(array) for array in arrays])
    padded = torch.zeros(len(arrays), int(lengths.max()), *arrays[0].shape[1:])
    for i, array in enumerate(arrays):
        padded[i, : len(array)] = torch.from_numpy(np.ascontiguousarray(array))
    return padded, lengths
