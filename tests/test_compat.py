import logging
import queue
import sys
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from commands import REPOSITORY
from fairseq import checkpoint_utils
from omegaconf import OmegaConf
from torch import nn

from colld_fairseq import compat
from colld_fairseq.errors import ConfigError


def test_prepare_runs_once(monkeypatch):
    monkeypatch.setattr(compat, "check_fairseq", lambda: pytest.fail("prepared twice"))
    compat.prepare()


@pytest.mark.parametrize("version, fine", [("1.0.7", False), ("1.3.2", True), ("2.0.0", True)])
def test_old_hydra_is_refused_with_the_command_that_mends_it(version, fine, monkeypatch):
    import hydra

    monkeypatch.setattr(hydra, "__version__", version)
    if fine:
        return compat.check_fairseq()
    with pytest.raises(ImportError, match=r"hydra-core 1\.0\.7.*pip install 'hydra-core>=1\.3\.2'"):
        compat.check_fairseq()


def test_fairseq_without_its_compiled_part_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "fairseq.data.data_utils_fast", None)
    with pytest.raises(ImportError, match="pip install --no-deps ve-fairseq"):
        compat.check_fairseq()


def test_a_torchaudio_that_works_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("works = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    compat.hide_broken_torchaudio()
    assert sys.modules["torchaudio"].works
    monkeypatch.delitem(sys.modules, "torchaudio")


def test_objects_travel_between_workers(tmp_path):
    """As when worker 0 sends a checkpoint to the others: here one worker to itself."""
    from fairseq.distributed import utils
    from omegaconf import OmegaConf

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sent = {"cfg": OmegaConf.create({"a": {"b": 1}}), "weights": torch.arange(4.0)}
        got = utils.broadcast_object(sent, src_rank=0, group=torch.distributed.group.WORLD)
    finally:
        torch.distributed.destroy_process_group()
    assert got["cfg"].a.b == 1 and torch.equal(got["weights"], torch.arange(4.0))


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_save_dir_that_cannot_be_written_is_told_in_one_line(below, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        checkpoint_utils.verify_checkpoint_directory(str(tmp_path / "file" / below))
    assert str(stopped.value).startswith(f"fairseq-train: error: --save-dir {tmp_path}/file")
    assert f"{tmp_path}/file is a file, not a folder; give another path" in str(stopped.value)
    checkpoint_utils.verify_checkpoint_directory(str(tmp_path / "new" / "folder"))
    assert list((tmp_path / "new" / "folder").iterdir()) == []


LEAVING = """
import sys
import numpy as np
import colld_fairseq
from colld_fairseq.data.fbank import log_mel_fbank
from fairseq.data.iterators import BufferedIterator

class Filterbanks:
    def __len__(self): return 10**6
    def __iter__(self):
        samples = np.random.default_rng(0).standard_normal(160000).astype(np.float32) / 10
        return (log_mel_fbank(samples) for _ in range(10**6))

for iterator in [BufferedIterator(size, Filterbanks()) for size in (1, 2, 10, 1000)]:
    next(iterator), next(iterator)
if sys.argv[1] == "error":
    raise KeyboardInterrupt
"""


@pytest.mark.parametrize("how, code", [("end", 0), ("error", -2)])
def test_leaving_in_the_middle_of_an_epoch(how, code):
    """Threads that compute filterbanks end before Python does, which would abort (134) if it met them there."""
    import subprocess

    done = subprocess.run([sys.executable, "-W", "ignore", "-c", LEAVING, how], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == code and b"terminate" not in done.stderr, done.stderr[-500:]


def test_readers_read_everything_until_they_are_stopped():
    from fairseq.data import iterators

    room = queue.Queue(1)
    reader = iterators.BackgroundConsumer(room, iter(range(1000)), None, None)
    reader.daemon = True
    reader.start()
    assert [room.get() for _ in range(500)] == list(range(500))
    reader.stop(time.monotonic() + 20)
    assert not reader.is_alive() and room.qsize() <= 1
    whole = iterators.BufferedIterator(3, range(50))
    assert list(whole) == list(range(50))


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@dataclass
class Output:
    x: torch.Tensor
    lengths: torch.Tensor


class Part(nn.Module):
    """Returns its input times a weight, as `kind` of output; NaN where `bad` says: forward or backward."""

    def __init__(self, kind, bad=""):
        super().__init__()
        self.weight, self.kind, self.bad = nn.Parameter(torch.ones(3)), kind, bad

    def forward(self, x):
        x = self.weight * x * (torch.nan if self.bad == "forward" else 1)
        if self.bad == "backward":
            x = torch.where(x > 100, x, (x - x.detach()).abs().sqrt() + x.detach())  # infinite gradient at 0
        return {"pair": lambda: Pair(x, x), "class": lambda: Output(x, torch.tensor([3])), "tensor": lambda: x,
                "nested": lambda: {"a": [x, None], "b": (Output(x, x),)}}[self.kind]()  # fmt: skip


@pytest.mark.parametrize("kind", ["tensor", "pair", "class", "nested"])
@pytest.mark.parametrize("bad", ["forward", "backward"])
def test_the_module_that_made_a_nan_is_named(kind, bad):
    from fairseq.trainer import NanDetector

    model = nn.ModuleDict({"good": Part("tensor"), "culprit": Part(kind, bad)})
    with pytest.raises(FloatingPointError, match=f"(NaN|Inf).* (culprit|good), shape.*{bad}.*--lr") as caught:
        with NanDetector(model):
            output = model["culprit"](model["good"](torch.arange(1.0, 4.0)))
            sum(tensor.sum() for tensor in compat.tensors_of(output) if tensor.requires_grad).backward()
    assert bad == "backward" or "of culprit" in str(caught.value)


def test_a_parameter_that_is_nan_is_named_and_nothing_is_said_of_a_sound_model():
    from fairseq.trainer import NanDetector

    model = nn.ModuleDict({"good": Part("class"), "culprit": Part("class")})
    with NanDetector(model):
        model["good"](torch.ones(3)).x.sum().backward()
    model["culprit"].weight.data[1] = torch.inf
    with pytest.raises(FloatingPointError, match="NaN or Inf in culprit.weight or its gradient .1 param"):
        with NanDetector(model):
            model["good"](torch.ones(3))
    model["culprit"].weight.data[1] = 1
    with pytest.raises(ValueError, match="of the criterion"), NanDetector(model):  # another error stays as it is
        raise ValueError("of the criterion")


@pytest.mark.parametrize(
    "arguments, given",
    [
        *[(["--max-len-b", "200"], True), (["--max-len-b=200"], True), (["generation.max_len_a=0"], True)],
        *[(["--beam", "5"], False), (["max-len-b"], False), (["--max-len-bb", "2"], False)],
    ],
)
def test_what_was_given_on_the_command_line(arguments, given, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fairseq-generate", *arguments])
    assert compat.given_on_command_line("max_len_a", "max_len_b") == given


@pytest.mark.parametrize(
    "common, gpu, message",
    [
        ({"fp16": True}, False, "--fp16 needs a GPU, and there is none here"),
        ({"fp16": True, "cpu": True}, True, "--fp16 needs a GPU, and --cpu takes none"),
        ({"amp": True}, False, "--amp needs a GPU"),
        ({"fp16": True}, True, None),
        ({"bf16": True}, False, None),
    ],
)
def test_half_precision_without_a_gpu_is_refused(common, gpu, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    cfg = OmegaConf.create({"common": common, "task": {"data": "x"}})
    compat.check_precision(SimpleNamespace())  # a configuration that is no part of a run
    if message is None:
        return compat.check_precision(cfg.task)
    with pytest.raises(ConfigError, match=message):
        compat.check_precision(cfg.task)


def test_the_checkpoint_that_training_will_start_from(tmp_path):
    """The one that fairseq itself finds, later: the run's own last one before any other."""
    from fairseq.dataclass.configs import CheckpointConfig

    given, last = str(tmp_path / "given.pt"), str(tmp_path / "checkpoint_last.pt")
    for there, options, expected in [
        ([], {}, None),
        ([given], {}, None),
        ([given], {"restore_file": given}, given),
        ([given], {"finetune_from_model": given}, given),
        ([given], {"continue_once": given}, given),
        ([given, last], {}, last),
        ([given, last], {"finetune_from_model": given}, last),
        ([given, last], {"restore_file": given}, given),
        ([], {"restore_file": given}, None),
    ]:
        for path in (given, last):
            (tmp_path / path).unlink(missing_ok=True)
        for path in there:
            (tmp_path / path).touch()
        cfg = OmegaConf.create(
            {"checkpoint": OmegaConf.structured(CheckpointConfig(save_dir=str(tmp_path), **options))}
        )
        cfg.model = {"_name": "student_ctc"}
        assert compat.restored_checkpoint(compat.run_of(cfg.model)) == expected, (there, options)
    assert compat.restored_checkpoint(compat.run_of(SimpleNamespace())) is None


def test_the_checkpoint_that_is_evaluated():
    cfg = OmegaConf.create({"common_eval": {"path": "a.pt:b.pt"}, "task": {"_name": "x"}})
    assert compat.evaluated_checkpoint(cfg.task) == "a.pt"
    cfg.common_eval.path = None
    assert compat.evaluated_checkpoint(cfg.task) is compat.evaluated_checkpoint(SimpleNamespace()) is None


def test_a_record_is_written_to_the_log_file_once(tmp_path):
    """However many epochs and validations opened it; a second run in this process has its own."""
    from fairseq.logging import progress_bar

    paths = [tmp_path / "a.log", tmp_path / "b.log"]
    before = list(progress_bar.logger.handlers)
    level = progress_bar.logger.level
    progress_bar.logger.setLevel(logging.INFO)
    try:
        for path in paths:
            for epoch in range(1, 4):
                bar = progress_bar.progress_bar([1], log_format="json", log_file=str(path), epoch=epoch)
                bar.print({"loss": 0.5, "path": path.name}, tag="train", step=epoch)
        assert len(progress_bar.logger.handlers) == len(before) + 2
    finally:
        for handler in set(progress_bar.logger.handlers) - set(before):
            progress_bar.logger.removeHandler(handler)
            handler.close()
        progress_bar.logger.setLevel(level)
    for path in paths:
        assert sum(path.name in line for line in path.read_text().splitlines()) == 3


def test_weights_that_are_missing_are_not_shared():
    from fairseq import trainer

    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    assert trainer._catalog_shared_params(model) == []
    model[2].weight = model[0].weight
    assert trainer._catalog_shared_params(nn.Sequential(model)) == [["0.0.weight", "0.2.weight"]]
