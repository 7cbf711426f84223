"""Criterions on a student and a batch that are not on the CPU: no tensor of the CPU among them, and the same loss.

The other device has none of the CPU's fast paths, so that these are compared with the plain operators as well.
"""

import math

import pytest
import torch
from device_cases import (
    DISTILLATIONS,
    RECOGNISERS,
    distilled_losses,
    set_up_distillation,
    set_up_recogniser,
    small_batch,
    step,
    tiled_losses,
)
from second_device import DEVICE, second_device

from colld_fairseq.devices import has_fast_bfloat16


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
def test_distillation(which, criterion, options, corpus, teacher, fast_teacher, coded_teacher):
    teachers = {"plain": teacher, "coded": coded_teacher, "two": f"slow={teacher},fast={fast_teacher}"}
    check(set_up_distillation(corpus, teachers, which, criterion, options))


@pytest.mark.parametrize("arch, options", RECOGNISERS)
def test_finetuning(arch, options, corpus, tagged_vocab):
    check(set_up_recogniser(corpus, tagged_vocab, arch, options))


@pytest.mark.parametrize("losses", [distilled_losses, tiled_losses])
def test_losses_of_transducer_distillation(losses):
    expected = losses("cpu")
    with second_device():
        assert losses(DEVICE) == pytest.approx(expected, rel=1e-4)


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
