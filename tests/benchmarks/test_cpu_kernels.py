import time

import cpu_kernels
import pytest

from colld_fairseq.models.encoder_presets import HUBERT_BASE
from colld_fairseq.modules.cpu import KERNELS


def test_every_kernel_takes_part_in_a_pass():
    taking_part = {kernel for _, kernels in cpu_kernels.passes(4).values() for kernel in kernels}
    assert taking_part == {*KERNELS, "cached weights"}


def test_ratios_are_those_of_each_round():
    """The machine slowed down in the last of three rounds, for both alike; one before them warms up."""
    now, seconds = 0.0, iter([9.0, 9.0, 1.0, 2.0, 1.0, 3.0, 10.0, 20.0])

    def run():
        nonlocal now
        now += next(seconds)

    median, rows = cpu_kernels.measure(run, ["packing"], 3, lambda: now)
    assert median == 1.0 and rows == [{"kernel": "packing", "without_s": 3.0, "ratio": 2.0}]


def test_a_small_pass():
    kernels = ["extractor", "positions", "cached weights"]
    run = cpu_kernels.inference(cpu_kernels.encoder(dict(HUBERT_BASE, layers=1), 4), 0.3)
    median, rows = cpu_kernels.measure(run, kernels, 1, time.process_time)
    assert median > 0 and [row["kernel"] for row in rows] == kernels
    assert all(row["ratio"] == pytest.approx(row["without_s"] / median) for row in rows)
