"""The teacher's own decoder, frozen, reads what the student's encoder gives: a distillation term without labels.

The transcripts (and translations) that it is to write are those that the teacher itself writes of the audio: the
`tgt_text` of the manifests, which `fairseq-generate` or `colld transcribe` with the assembled teacher makes.
"""

from typing import Dict, List, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from colld_fairseq.data.manifest import Row
from colld_fairseq.data.pretrained_vocabulary import PretrainedVocabulary, directory_of
from colld_fairseq.errors import ConfigError
from colld_fairseq.models.pretrained_decoder import PretrainedDecoder, load_pretrained
from colld_fairseq.modules.lengths import lengths_to_padding_mask


class FrozenDecoder:
    """The decoder in `hf:DIR`. As a teacher, it is no module: in no checkpoint, never in train mode, never copied."""

    def __init__(self, spec: str) -> None:
        directory = directory_of(spec)
        self.vocabulary = PretrainedVocabulary(directory, spec)
        self.module = PretrainedDecoder(self.vocabulary, dropout=0.0)
        load_pretrained(self.module, self.vocabulary, directory)
        self.module.eval().requires_grad_(False)

    def check_width(self, width: int) -> None:
        if width != self.module.width:
            raise ConfigError(
                f"--teacher-decoder: it reads an encoder of width {self.module.width}, the student's is {width}"
            )

    def encode(self, row: Row) -> Tensor:
        """Token ids of what is to be written, with its end."""
        return self.vocabulary.encode(row.tgt_text, append_eos=True)

    def prefix(self, row: Row) -> List[int]:
        """What the decoder is given first: language and task. ConfigError names the row."""
        return self.vocabulary.prefix(row.src_lang, row.tgt_lang, f"{row.id}, line {row.line}")

    def logits(self, frames: Tensor, lengths: Tensor, given: Dict[str, Tensor]) -> Tensor:
        """[B, U, V] from the encoder's output [B, T, D], lengths [B], and a batch's `net_input`; in the precision of
        `frames`."""
        self.module.to(frames)
        encoder_out = {
            "encoder_out": [frames.transpose(0, 1)],
            "encoder_padding_mask": [lengths_to_padding_mask(lengths, frames.size(1))],
            "prefix_tokens": [given["prefix_tokens"]],
        }
        return self.module(given["prev_output_tokens"], encoder_out)[0]

    def within_positions(self, sample: Dict) -> Tuple[Dict[str, Tensor], Tensor]:
        """`net_input` and target [B, U] of a batch without the tokens that the decoder has no positions for: the end of
        what it wrote in circles, or of many utterances joined."""
        given, longest = sample["net_input"], self.module.max_positions()
        tokens = given["prev_output_tokens"][:, :longest]
        return {**given, "prev_output_tokens": tokens}, sample["target"][:, :longest]

    def cross_entropy(self, frames: Tensor, lengths: Tensor, sample: Dict) -> Tuple[Tensor, int]:
        """-log p of the targets, summed, float32 [], and how many tokens they have; see `logits`."""
        given, target = self.within_positions(sample)
        logits = self.logits(frames, lengths, given)
        written = target != self.vocabulary.dictionary.pad()
        return F.cross_entropy(logits[written].float(), target[written], reduction="sum"), int(written.sum())

    def divergence(self, frames: Tensor, teacher: Tensor, lengths: Tensor, sample: Dict) -> Tuple[Tensor, int]:
        """KL(p of the teacher's output || p of the student's), both [B, T, D], along the targets, summed over tokens,
        and how many they are."""
        given, target = self.within_positions(sample)
        written = target != self.vocabulary.dictionary.pad()
        with torch.no_grad():
            expected = self.logits(teacher.to(frames), lengths, given)[written].float().log_softmax(-1)
        student = self.logits(frames, lengths, given)[written].float().log_softmax(-1)
        return F.kl_div(student, expected, reduction="sum", log_target=True), int(written.sum())
