"""The fused Adam beside fairseq's own, and in a run that is interrupted."""

import torch
from commands import TINY_ENCODER, TRAINING, call, losses
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig

from colld_fairseq.optim import FusedAdam, FusedAdamConfig

OPTIONS = {"lr": [3e-3], "adam_betas": "(0.8, 0.95)", "adam_eps": 1e-12, "weight_decay": 0.1}


def trained(optimizer, config, steps=30):
    """Weights of a small regression after so many steps, the learning rate halved on the way."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 5), torch.randn(64, 3)
    weights = torch.nn.Parameter(torch.randn(5, 3))
    adam = optimizer(config(**OPTIONS), [weights])
    for step in range(steps):
        adam.set_lr(3e-3 if step < 15 else 1.5e-3)
        adam.zero_grad()
        ((x @ weights - y) ** 2).mean().backward()
        adam.step()
    return weights.detach()


def test_updates_are_those_of_fairseq():
    start, ours = trained(FusedAdam, FusedAdamConfig, 0), trained(FusedAdam, FusedAdamConfig)
    assert (ours - start).abs().min() > 1e-3
    torch.testing.assert_close(ours, trained(FairseqAdam, FairseqAdamConfig), rtol=1e-5, atol=1e-6)


def test_an_interrupted_run_goes_on(corpus, teacher, tmp_path):
    """Losses and weights of 3 + 3 updates are those of 6, digit for digit."""
    recipe = [corpus, *TRAINING, "--task", "speech_distillation", "--teacher", teacher, "--criterion", "colld"]
    recipe += ["--arch", "colld_student", "--layer-map", "sparse:2", *TINY_ENCODER]
    recipe = [word if word != "adam" else "fused_adam" for word in recipe]
    assert "fused_adam" in recipe

    def run(folder, updates):
        return losses(call("train", *recipe, "--save-dir", tmp_path / folder, "--max-update", updates))

    whole = run("whole", 6)
    assert run("parts", 3) + run("parts", 6) == whole and len(set(whole)) == 6
    one, other = (torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=False) for name in ("whole", "parts"))
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())
