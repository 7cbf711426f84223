"""Shares of the work: by options, by torchrun's variables, and the device of each."""

import pytest
import torch

from colld_fairseq.cli.features import Shard, this_shard
from colld_fairseq.errors import ConfigError


def test_options_come_before_the_variables(monkeypatch):
    assert this_shard(None, None) == (0, 1, 0)
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert this_shard(None, None) == (5, 8, 1)
    assert this_shard(2, 3) == (2, 3, 1)
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(ConfigError, match="shard 5 of 5: .* RANK and WORLD_SIZE"):
        this_shard(None, None)


def test_processes_of_a_machine_take_its_devices_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [Shard(0, 4, local).device(None) for local in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert Shard(0, 4, 1).device("cuda") == "cuda:1" and Shard(0, 4, 1).device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Shard(0, 4, 1).device(None) == "cpu"
