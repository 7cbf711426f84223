import json

import distilhubert_step
import pytest

TINY = "--width 64 --teacher-layers 3 --seconds 0.6,0.4 --runs 2 --warm-up 0"


def test_a_small_run(capsys):
    result = distilhubert_step.run(distilhubert_step.parse_arguments(TINY.split()))
    assert json.loads(json.dumps(result)) == result
    peer = "loop around transformers"
    assert set(result["seconds"]) == {"ours", peer}
    for parts in result["all_seconds"].values():
        assert {name: len(values) for name, values in parts.items()} == dict.fromkeys(
            ("step", *distilhubert_step.PARTS), 2
        )
        assert all(value > 0 for values in parts.values() for value in values)
        sums = [sum(values) for values in zip(*(parts[name] for name in distilhubert_step.PARTS), strict=True)]
        assert sums == pytest.approx(parts["step"])
    ratio = result["seconds"][peer]["step"] / result["seconds"]["ours"]["step"]
    assert result["speed_ratio"] == {peer: ratio}

    agreed, padded = result["losses"]["without padding"], result["losses"]["padded"]
    for figure in ("loss", "gradient_norm"):
        assert agreed["ours"][figure] == pytest.approx(agreed["peer"][figure], rel=1e-5)
        assert padded["ours"][figure] != pytest.approx(padded["peer"][figure], rel=1e-5)
    counted = result["losses"]["padding in the means"]
    assert counted["ours"]["loss"] != padded["ours"]["loss"] and counted["peer"] == padded["peer"]

    distilhubert_step.print_table(result)
    printed = capsys.readouterr().out
    assert "definitions agree, to 1e-4: met" in printed and f"times as fast as the {peer}" in printed


def test_a_folder_that_is_no_checkout_of_s3prl(tmp_path):
    arguments = distilhubert_step.parse_arguments([*TINY.split(), "--s3prl", str(tmp_path)])
    with pytest.raises(SystemExit, match="no checkout of s3prl"):
        distilhubert_step.run(arguments)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--width 100", "multiple of 64"),
        ("--teacher-layers 4", "multiple of 3"),
        ("--as-shipped", "needs --s3prl"),
    ],
)
def test_bad_arguments(arguments, reason, capsys):
    with pytest.raises(SystemExit):
        distilhubert_step.parse_arguments(arguments.split())
    assert reason in capsys.readouterr().err
