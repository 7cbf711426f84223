"""How much of the text a frozen student knows:

    python -m examples.colld.prompts.probe RUN_DIR CHECKPOINT [CHECKPOINT ...]

A small convolutional CTC head (kernel 5, 256 channels) is trained for 600 updates of 16 utterances on the last layer of
each frozen student, and decoded greedily on the dev recordings. It takes a minute a checkpoint on one core, where
fine-tuning takes ten: made to compare objectives of distillation. "random" in place of a checkpoint probes an
untrained student.

RUN_DIR holds `data/` (train_asr.tsv, dev_asr.tsv) and `vocab/`, as run.py leaves them.
"""

import argparse
from pathlib import Path
from typing import List, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import ctc_loss
from torch.nn.utils.rnn import pad_sequence

import colld_fairseq
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.decoding.ctc import greedy_ctc
from colld_fairseq.models.encoder_presets import PRESETS
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.scoring.metrics import CorpusScores

UPDATES, BATCH, LEARNING_RATE, WARM_UP, MAX_SECONDS = 600, 16, 3e-3, 50, 14
Utterances = List[Tuple[Tensor, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("checkpoints", nargs="+")
    args = parser.parse_args()
    vocabulary = Vocabulary(str(args.run_dir / "vocab"))
    train, dev = (read_utterances(args.run_dir / "data" / f"{split}_asr.tsv") for split in ("train", "dev"))
    for checkpoint in args.checkpoints:
        torch.manual_seed(1)
        encoder = untrained() if checkpoint == "random" else colld_fairseq.load_student(checkpoint)
        cer = probe(encoder, train, dev, vocabulary)
        print(f"{checkpoint}\tdev CER {cer:.1f}", flush=True)


def untrained() -> StudentEncoder:
    shape = dict(PRESETS["tiny"], embed_dim=144, ffn_dim=576)
    return StudentEncoder(EncoderConfig.from_dict(shape)).eval()


def read_utterances(manifest: Path) -> Utterances:
    """(filterbanks [T, 80], transcript) of every utterance up to MAX_SECONDS."""
    rows, student_input = read_manifest(str(manifest)), StudentInput()
    chosen = [rows.row(i) for i in np.flatnonzero(rows.n_samples <= MAX_SECONDS * 16000)]
    return [(torch.from_numpy(student_input(read_audio(row.audio))), row.tgt_text) for row in chosen]


@torch.no_grad()
def encode(encoder: StudentEncoder, utterances: Utterances) -> List[Tensor]:
    """Last layer [T, D] of every utterance."""
    features = []
    for start in range(0, len(utterances), BATCH):
        sources = [source for source, _ in utterances[start : start + BATCH]]
        output = encoder(pad_sequence(sources, batch_first=True), torch.tensor([len(source) for source in sources]))
        features += [x[:length].clone() for x, length in zip(output.x, output.lengths)]
    return features


def probe(encoder: StudentEncoder, train: Utterances, dev: Utterances, vocabulary: Vocabulary) -> float:
    """Dev CER in percent of a head trained on the frozen encoder."""
    train_x, dev_x = encode(encoder, train), encode(encoder, dev)
    train_y = [vocabulary.encode(text, append_eos=False) for _, text in train]
    every = torch.cat(train_x)
    mean, std = every.mean(0), every.std(0)
    head = nn.Sequential(
        nn.Conv1d(encoder.width, 256, 5, padding=2), nn.GELU(), nn.Conv1d(256, len(vocabulary.dictionary), 1)
    )

    def log_probs(features: List[Tensor]) -> Tuple[Tensor, Tensor]:
        x = pad_sequence([(feature - mean) / std for feature in features], batch_first=True)
        lengths = torch.tensor([len(feature) for feature in features])
        return head(x.transpose(1, 2)).transpose(1, 2).log_softmax(-1), lengths

    optimizer, draw = torch.optim.AdamW(head.parameters()), np.random.default_rng(1)
    for update in range(UPDATES):
        chosen = draw.integers(0, len(train_x), BATCH)
        y = [train_y[i] for i in chosen]
        predicted, lengths = log_probs([train_x[i] for i in chosen])
        y_lengths = torch.tensor([len(tokens) for tokens in y])
        loss = ctc_loss(
            predicted.transpose(0, 1), torch.cat(y), lengths, y_lengths, reduction="sum", zero_infinity=True
        )
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1, (update + 1) / WARM_UP) * (1 - update / UPDATES)
        optimizer.zero_grad()
        (loss / y_lengths.sum()).backward()
        optimizer.step()

    scores = CorpusScores()
    with torch.no_grad():
        for start in range(0, len(dev_x), BATCH):
            hypotheses = greedy_ctc(*log_probs(dev_x[start : start + BATCH]), vocabulary.dictionary.bos())
            for hypothesis, (_, text) in zip(hypotheses, dev[start : start + BATCH]):
                scores.add(vocabulary.decode(torch.tensor(hypothesis.tokens)), vocabulary.codec.clean(text))
    return scores.overall().cer


if __name__ == "__main__":
    main()
