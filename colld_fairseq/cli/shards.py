"""Which share of the work is this process', alone, under torchrun, or by option."""

import os
from typing import NamedTuple, Optional

import torch

from colld_fairseq.devices import pick_device
from colld_fairseq.errors import ConfigError


class Shard(NamedTuple):
    """Process `index` of `total`, from 0; `local` counts those of its machine."""

    index: int
    total: int
    local: int

    def __str__(self) -> str:
        return f"process {self.index + 1} of {self.total}"

    def device(self, name: Optional[str]) -> str:
        """`name`, by default cuda where there is one; processes of one machine take its GPUs in turn."""
        name = pick_device(name)
        return f"cuda:{self.local % torch.cuda.device_count()}" if name == "cuda" else name


def this_shard(index: Optional[int], total: Optional[int]) -> Shard:
    """From --shard and --num-shards; without them what torchrun says, or all of the work.

    Raises ConfigError: one of them without the other, or an index out of range.
    """
    if index is None and total is None:
        index, total = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if index is None or total is None or not 0 <= index < total:
        raise ConfigError(
            f"shard {index} of {total}: give --shard, from 0, and --num-shards, the number of processes, or neither; "
            f"then torchrun's variables RANK and WORLD_SIZE count"
        )
    return Shard(index, total, int(os.environ.get("LOCAL_RANK", 0)))
