import importlib.util
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = "--width 64 --teacher-layers 3 --seconds 0.6,0.4 --runs 2 --warm-up 0"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("distilhubert_step", FOLDER / "distilhubert_step.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def test_a_small_run(benchmark, capsys):
    result = benchmark.run(benchmark.parse_arguments(TINY.split()))
    assert json.loads(json.dumps(result)) == result
    peer = "loop around transformers"
    assert set(result["seconds"]) == {"ours", peer}
    for parts in result["all_seconds"].values():
        assert {name: len(values) for name, values in parts.items()} == dict.fromkeys(("step", *benchmark.PARTS), 2)
        assert all(value > 0 for values in parts.values() for value in values)
        sums = [sum(values) for values in zip(*(parts[name] for name in benchmark.PARTS), strict=True)]
        assert sums == pytest.approx(parts["step"])
    ratio = result["seconds"][peer]["step"] / result["seconds"]["ours"]["step"]
    assert result["speed_ratio"] == {peer: ratio}

    agreed, padded = result["losses"]["without padding"], result["losses"]["padded"]
    for figure in ("loss", "gradient_norm"):
        assert agreed["ours"][figure] == pytest.approx(agreed["peer"][figure], rel=1e-5)
        assert padded["ours"][figure] != pytest.approx(padded["peer"][figure], rel=1e-5)
    counted = result["losses"]["padding in the means"]
    assert counted["ours"]["loss"] != padded["ours"]["loss"] and counted["peer"] == padded["peer"]

    benchmark.print_table(result)
    printed = capsys.readouterr().out
    assert "definitions agree, to 1e-4: met" in printed and f"times as fast as the {peer}" in printed


def test_a_folder_that_is_no_checkout_of_s3prl(benchmark, tmp_path):
    arguments = benchmark.parse_arguments([*TINY.split(), "--s3prl", str(tmp_path)])
    with pytest.raises(SystemExit, match="no checkout of s3prl"):
        benchmark.run(arguments)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--width 100", "multiple of 64"),
        ("--teacher-layers 4", "multiple of 3"),
        ("--as-shipped", "needs --s3prl"),
    ],
)
def test_bad_arguments(benchmark, arguments, reason, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_arguments(arguments.split())
    assert reason in capsys.readouterr().err
