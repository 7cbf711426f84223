import json

import matplotlib.pyplot as plt
import pytest
import quality_figure
from commands import REPOSITORY


def test_it_shows_what_was_recorded(tmp_path):
    quality_figure.main(["--out", str(tmp_path / "quality.png")])
    recorded = json.loads((REPOSITORY / "benchmarks" / "results" / "quality.json").read_text())["systems"]
    for axis, field in zip(plt.gcf().axes, ("encoder_parameters_m", "rtf"), strict=True):
        points = [tuple(dots.get_offsets()[0]) for dots in axis.collections]
        assert points == [pytest.approx((system[field], system["cer"])) for system in recorded]
        low, high = axis.get_xlim()
        assert all(low < x < high for x, _ in points)
    plt.close()
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")
