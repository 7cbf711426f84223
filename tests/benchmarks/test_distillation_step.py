import json

import distillation_step
import pytest


def test_a_small_run(capsys):
    arguments = "--device cpu --width 64 --batch-seconds 2 --utterance-seconds 1 --pairs 2 --runs 2 --warm-up 0"
    result = distillation_step.run(distillation_step.parse_arguments(arguments.split()))
    assert json.loads(json.dumps(result)) == result
    assert set(result["seconds"]) == set(distillation_step.TIMED)
    assert all(len(result["all_seconds"][name]) == 2 for name in distillation_step.TIMED)
    assert all(seconds > 0 for seconds in result["seconds"].values())
    assert 0 < result["heads_and_loss_share"] < 1
    assert result["settings"]["batch_seconds"] == 2
    assert result["teacher_parameters"] > 1.5 * result["student_parameters"]
    distillation_step.print_table(result)
    printed = capsys.readouterr().out
    assert all(name in printed for name in distillation_step.TIMED)
    assert "peak memory" in printed


def test_presets_keep_the_proportions():
    full = distillation_step.parse_arguments(["--preset", "full", "--device", "cpu"])
    assert (full.width, full.batch_seconds, full.pairs, full.negatives) == (1024, 80, 12, 100)
    cpu = distillation_step.parse_arguments(["--device", "cpu"])
    assert cpu.preset == "cpu"
    assert full.width / cpu.width == full.batch_seconds / cpu.batch_seconds


@pytest.mark.parametrize("arguments", [["--width", "100"], ["--pairs", "13"], ["--pairs", "0"]])
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit):
        distillation_step.parse_arguments(arguments)
    assert "multiple of 64" in capsys.readouterr().err
