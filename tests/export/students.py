"""Tiny students that have learned something, as checkpoints; and folders exported from them."""

import torch
from commands import TINY_ENCODER
from omegaconf import OmegaConf
from task_setup import set_up

from colld_fairseq.data.fbank import GlobalCmvn, log_mel_fbank

UPDATES, MORE_UPDATES = 60, 100
EXTRACTOR = ["--front-end", "waveform", "--conv-feature-layers", "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"]
TRANSFORMER = [
    "--encoder-block",
    "transformer",
    "--encoder-position",
    "conv",
    "--conv-pos",
    "16",
    "--conv-pos-groups",
    "2",
]
SHAPES = {
    "conformer": [],
    "subsampled": ["--front-end", "conv2d", "--encoder-position", "relative_key"],
    "icefall": ["--front-end", "conv2d", "--fbank", "icefall"],
    "hubert": [*EXTRACTOR, *TRANSFORMER, "--normalize-waveform"],
}


STATELESS = ["--predictor", "stateless", "--predictor-embed-dim", "32", "--joiner-dim", "32"]
LSTM = ["--predictor", "lstm", "--predictor-embed-dim", "24", "--predictor-layers", "2", "--joiner-dim", "32"]
MODIFIED = ["--topology", "modified"]
ICEFALL = ["--fbank", "icefall"]
CHUNKS = ["--encoder-context", "chunk", "--chunk-sizes", "4,8", "--left-context", "2,full"]
CAUSAL = ["--encoder-context", "causal", "--left-context", "20", "--encoder-position", "relative_key"]
TRANSDUCERS = {
    "stateless": ["--front-end", "conv2d", *ICEFALL, *STATELESS, *MODIFIED],
    "lstm": ["--fbank-stack", "4", *ICEFALL, *LSTM],
    "chunks": ["--front-end", "conv2d", *ICEFALL, *CHUNKS, *STATELESS, "--predictor-context", "3", *MODIFIED],
    "causal": ["--front-end", "conv2d", "--cmvn", "none", *CAUSAL, *LSTM, *MODIFIED],
}
DECODER = ["--decoder-layers", "2", "--decoder-embed-dim", "24", "--decoder-ffn-embed-dim", "40"]
ATTENTION = {
    "attention": [*DECODER, "--decoder-attention-heads", "2"],
    "attention_tags": [*DECODER, "--decoder-attention-heads", "3", "--adaptor-layers", "2"],
}
ARCHITECTURES = {"student_ctc": SHAPES, "transducer_student": TRANSDUCERS, "student_s2t": ATTENTION}
TAGGED = ("lstm", "attention_tags")  # those that are told the target language
CORPUS_CMVN = {"subsampled": "kaldi", "chunks": "icefall"}  # filterbanks of those normalized with statistics


def train(path, corpus, vocab, *options, arch="student_ctc", updates=UPDATES):
    """A student after `updates` updates on 12 utterances, saved as fairseq does; returns its path."""
    criterion = "transducer" if arch == "transducer_student" else "ctc_attention"
    arguments = [corpus, "--task", "multilingual_speech_to_text", "--criterion", criterion, "--vocab", vocab]
    torch.manual_seed(1)
    run = set_up(*arguments, "--arch", arch, *TINY_ENCODER, *options)
    run.task.load_dataset("train")
    dataset = run.task.dataset("train")
    batch = dataset.collater([dataset[index] for index in range(12)])
    optimizer = torch.optim.Adam(run.model.train().parameters(), lr=0.01, betas=(0.9, 0.98))
    for _ in range(updates):
        optimizer.zero_grad()
        loss, size, _ = run.criterion(run.model, batch)
        (loss / size).backward()
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        optimizer.step()
    return save(run, path, updates)


def save(run, path, updates=0):
    """What `set_up` returned, as fairseq saves it; returns the path."""
    cfg = OmegaConf.to_container(run.cfg, resolve=True, enum_to_str=True)
    history = [{"criterion_name": "none", "optimizer_name": "none", "lr_scheduler_state": {}, "num_updates": updates}]
    extra = {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}}
    state = {"args": None, "cfg": cfg, "model": run.model.state_dict(), "task_state": run.task.state_dict()}
    torch.save({**state, "optimizer_history": history, "extra_state": extra}, path)
    return str(path)


def write_statistics(path, waveforms, variant="kaldi"):
    """Mean and deviation of the filterbanks of these waveforms, as `colld cmvn` writes them."""
    GlobalCmvn.fit(log_mel_fbank(waveform, variant=variant) for waveform in waveforms).save(str(path), variant)
    return str(path)
