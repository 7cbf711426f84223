"""The LibriSpeech recipe of examples/multi_teacher_transducer: every command of its README, in order, in miniature."""

import json
import re
import shlex

import numpy as np
import pytest
import soundfile
import synthetic
import torch
from commands import PACKAGE, call, log_records
from recipes import EXAMPLES, NARROW, TWO_STEPS, train

from colld_fairseq.checkpoints.encoder import read_encoder
from colld_fairseq.cli import main as colld

FOLDER = EXAMPLES / "multi_teacher_transducer"
SUBSETS = {"train-clean-100": 6, "train-clean-360": 3, "train-other-500": 3, "dev-clean": 2, "dev-other": 2}
SUBSETS["test-other"] = 3
# Teachers of four layers instead of twelve, a text of six letters, two updates.
SMALLER = {"--layers": "4", "--size": "10", "--beam": "2", "--last": "2", "--user-dir": str(PACKAGE)}
SHORT = [*TWO_STEPS, "++checkpoint.no_save=false", "++dataset.disable_validation=false"]
KEPT = [override for override in NARROW if "model." not in override]  # shapes come with the student


def recipe():
    """The commands as lists of words."""
    section = (FOLDER / "README.md").read_text().split("## LibriSpeech")[1].split("\n## ")[0]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1].replace("\\\n", " ")
    return [words for words in (shlex.split(line, comments=True) for line in block.splitlines()) if words]


def write_librispeech(root):
    generator = np.random.default_rng(5)
    for reader, (subset, count) in enumerate(SUBSETS.items()):
        chapter = root / subset / str(reader) / "7"
        chapter.mkdir(parents=True)
        lines = []
        for i in range(count):
            utterance = synthetic.make_utterance(f"{reader}-7-{i:04}", "xx", "xx", generator)
            soundfile.write(chapter / f"{utterance.name}.flac", utterance.waveform, synthetic.RATE)
            lines.append(f"{utterance.name} {utterance.text.upper()}\n")
        (chapter / f"{reader}-7.trans.txt").write_text("".join(lines))


def run(words):
    """One command in this process; what it printed, of a training its log."""
    program = words[0]
    words = [SMALLER.get(before, word) for before, word in zip(words, words[1:])]
    if program == "colld":
        assert colld(words) == 0
    elif program == "fairseq-hydra-train":
        name, overrides = words[words.index("--config-name") + 1], [word for word in words if "=" in word]
        shape = [*NARROW, "++model.encoder_layers=2"] if name == "stage1" else KEPT
        averaged = any("keep_interval_updates" in word for word in overrides)
        saving = ["++checkpoint.save_interval_updates=1"] if averaged else []
        return train(FOLDER / f"{name}.yaml", [*shape, *SHORT, *overrides, *saving])
    else:
        return call(program.removeprefix("fairseq-"), *words, "--num-workers", "0")
    return ""


@pytest.mark.slow
def test_every_command(tmp_path, teacher, coded_teacher, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_librispeech(tmp_path / "LibriSpeech")
    for name, spec in (("hubert_base_ls960.pt", coded_teacher), ("wavlm-base", teacher)):
        (tmp_path / "teachers").mkdir(exist_ok=True)
        (tmp_path / "teachers" / name).symlink_to(spec.split(":", 1)[1])
    logs = {}
    for words in recipe():
        output = run(words)
        if words[0] == "fairseq-hydra-train":
            save_dir = next((w.split("=")[1] for w in words if w.startswith("checkpoint.save_dir=")), words[4])
            logs[save_dir] = output
    assert list(logs) == ["stage1", "stage2", "checkpoints/streaming_stage1", "checkpoints/streaming_stage2"]
    for output in logs.values():
        assert len(log_records(output, "train_inner")) == 2

    # All of the audio in stage 1; two hypotheses per utterance and the teacher's distributions in the streaming one.
    assert "train,unlabeled: 12 utterances" in logs["stage1"]
    assert "train,train_pseudo: 12 utterances" in logs["checkpoints/streaming_stage2"]
    lists = [json.loads(line) for line in (tmp_path / "data/train_pseudo.hypotheses.jsonl").read_text().splitlines()]
    assert len(lists) == 6 and max(len(one["hypotheses"]) for one in lists) == 2
    assert float(log_records(logs["checkpoints/streaming_stage2"], "train_inner")[0]["kd_loss"]) > 0
    state = torch.load(tmp_path / "checkpoints/streaming_stage2/checkpoint_last.pt", weights_only=True)
    assert state["task_state"]["teacher_transducer"].endswith("multi_teacher_stage2/checkpoint_best.pt")
    mean = torch.load(tmp_path / "checkpoints/streaming_stage2/averaged.pt", weights_only=True)
    assert [path.split("/")[-1] for path in mean["extra_state"]["averaged"]] == [
        "checkpoint_1_1.pt",
        "checkpoint_1_2.pt",
    ]
    config = read_encoder("colld:checkpoints/streaming_stage2/averaged.pt").config
    assert (config.context, config.layers, config.front_end) == ("chunk", 2, "conv2d")
    scores = json.loads((tmp_path / "results" / "test_other.json").read_text())
    assert scores["overall"]["sentences"] == 3
    streamed = capsys.readouterr().out
    assert all(f"5-7-{i:04}" in streamed for i in range(3))
