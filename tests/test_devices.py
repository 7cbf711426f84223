"""Criterions on a student and a batch that are not on the CPU: no tensor of the CPU among them, and the same loss.

The other device has none of the CPU's fast paths, so that these are compared with the plain operators as well.
"""

import contextlib
import math
import re

import pytest
import torch
from commands import PACKAGE, TINY_ENCODER, TRAINING, call, losses
from device_cases import (
    DISTILLATIONS,
    RECOGNISERS,
    STILL,
    distilled_losses,
    indexed,
    set_up_distillation,
    set_up_recogniser,
    small_batch,
    step,
    tiled_losses,
)
from pretended_gpu import pretended_gpu
from second_device import DEVICE, second_device

from colld_fairseq.cli import main as colld
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.devices import has_fast_bfloat16
from colld_fairseq.recogniser import load_recogniser


@pytest.fixture(autouse=True)
def same_weights():
    """Whatever tests ran before: of other weights a frame may be contrasted almost as well with two others, and the
    devices' rounding decides."""
    torch.manual_seed(1)


def check(run):
    sample = small_batch(run)
    loss, norms, valid = step(run, sample, "cpu")
    with second_device():
        run.task.valid_decoders = None  # they hold the model that they were built for
        there = step(run, sample, DEVICE)
        assert there[0] == pytest.approx(loss, rel=1e-3) and there[1].keys() == norms.keys()
        assert there[1] == pytest.approx(norms, rel=2e-2, abs=1e-3)
        assert there[2] == pytest.approx(valid, rel=1e-3, abs=1e-3, nan_ok=True)
        rounded, gradients, _ = step(run, sample, DEVICE, torch.bfloat16)
        assert rounded == pytest.approx(loss, rel=0.1) and all(map(math.isfinite, gradients.values()))


@pytest.mark.parametrize("which, criterion, options", DISTILLATIONS)
def test_distillation(which, criterion, options, corpus, teacher, fast_teacher, coded_teacher, tmp_path):
    teachers = {"plain": teacher, "coded": coded_teacher, "two": f"slow={teacher},fast={fast_teacher}"}
    if which == "indexed":
        teachers["indexed"] = indexed(corpus, teacher, tmp_path)
    check(set_up_distillation(corpus, teachers, which, criterion, options))


@pytest.mark.parametrize("arch, options", RECOGNISERS)
def test_finetuning(arch, options, corpus, tagged_vocab):
    check(set_up_recogniser(corpus, tagged_vocab, arch, options))


@pytest.mark.parametrize("of_kd", [distilled_losses, tiled_losses])
def test_losses_of_transducer_distillation(of_kd):
    expected = of_kd("cpu")
    with second_device():
        assert of_kd(DEVICE) == pytest.approx(expected, rel=1e-4)


def test_commands_on_a_gpu(corpus, teacher, vocab, tmp_path):
    """Distilled, fine-tuned, decoded: the losses and the text of the CPU."""
    logged, written = {}, {}
    for device, machine in (("cpu", contextlib.nullcontext()), ("gpu", pretended_gpu())):
        folder = tmp_path / device
        with machine:
            distil = ["--task", "speech_distillation", "--teacher", teacher, "--criterion", "colld"]
            distil += ["--arch", "colld_student", *TINY_ENCODER, "--layer-map", "sparse:2", *STILL]
            first = call("train", corpus, *distil, *TRAINING, "--max-update", "3", "--save-dir", folder / "distil")
            tune = ["--task", "multilingual_speech_to_text", "--vocab", vocab, "--criterion", "ctc_attention"]
            tune += ["--arch", "student_ctc", "--student", folder / "distil/checkpoint_last.pt", "--dropout", "0"]
            second = call("train", corpus, *tune, *TRAINING, "--max-update", "3", "--save-dir", folder / "tune")
            model = folder / "tune/checkpoint_last.pt"
            weights = load_recogniser(model).models[0].parameters()
            assert {weight.device for weight in weights} == {DEVICE if device == "gpu" else torch.device("cpu")}
            decode = ["--user-dir", PACKAGE, "--task", "multilingual_speech_to_text", "--max-tokens", "60000"]
            text = call("generate", corpus, *decode, "--vocab", vocab, "--path", model, "--gen-subset", "test")
            table = folder / "text.tsv"
            assert colld(["transcribe", str(model), "--manifest", str(corpus / "test.tsv"), "--out", str(table)]) == 0
        logged[device] = [float(loss) for loss in (*losses(first), *losses(second))]
        rows = read_manifest(str(table))
        transcripts = [rows.row(index).tgt_text for index in range(len(rows))]
        written[device] = sorted(re.findall(r"^D-(\d+)\t\S+\t(.*)$", text, re.MULTILINE)), transcripts
    assert len(logged["cpu"]) == 6 and logged["gpu"] == pytest.approx(logged["cpu"], rel=2e-3)
    assert written["gpu"] == written["cpu"] and len(written["cpu"][0]) == 9


def test_the_second_device_refuses_what_a_gpu_would():
    with second_device():
        x = torch.ones(3, device=DEVICE)
        for wrong in (lambda: x + torch.ones(3), lambda: torch.cat((x, torch.ones(1))), lambda: x.numpy()):
            with pytest.raises(RuntimeError):
                wrong()
        assert (x * torch.tensor(2.0))[torch.tensor([0, 2])].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("units", [(), ("amx_bf16",), ("avx512_bf16",), ("avx512_f", "amx_int8")])
def test_processors_that_are_fast_in_bfloat16(units, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, **{unit: True for unit in units}})
    assert has_fast_bfloat16("cpu") == any(unit.endswith("bf16") for unit in units)
