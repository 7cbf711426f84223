"""Which share of the work is this process', alone, under torchrun, or by option."""

import os
from typing import NamedTuple, Optional

import torch

from colld_fairseq.errors import ConfigError


class Shard(NamedTuple):
    """Number `index` of `count` processes; `local` counts those of its machine."""

    index: int
    count: int
    local: int

    def __str__(self) -> str:
        return f"process {self.index + 1} of {self.count}"

    def device(self, name: Optional[str]) -> str:
        """`name`, by default cuda where there is one; processes of one machine take its GPUs in turn."""
        name = name or ("cuda" if torch.cuda.is_available() else "cpu")
        return f"cuda:{self.local % torch.cuda.device_count()}" if name == "cuda" else name


def this_shard(index: Optional[int], count: Optional[int]) -> Shard:
    """From --shard and --num-shards; without them what torchrun says, or all of the work.

    Raises ConfigError: one of them without the other, or a number out of range.
    """
    environment = os.environ
    if index is None and count is None:
        index, count = int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
    if index is None or count is None or not 0 <= index < count:
        raise ConfigError(
            f"process {index} of {count}: give --shard, from 0, and --num-shards, the number of processes, or neither; "
            f"then torchrun's variables RANK and WORLD_SIZE count"
        )
    return Shard(index, count, int(environment.get("LOCAL_RANK", 0)))
