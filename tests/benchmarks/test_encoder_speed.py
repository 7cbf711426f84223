import json

import encoder_speed
import pytest
import torch

TINY = "--width-divisor 4 --seconds 0.5 --rounds 2 --warm-up 0 --batch-sizes 1,2"


def test_a_small_run(capsys, tmp_path, monkeypatch):
    path = tmp_path / "speed.json"
    monkeypatch.setattr(encoder_speed, "MACS_SECONDS", 1)
    monkeypatch.setattr("sys.argv", ["encoder_speed.py", *TINY.split(), "--json", str(path)])
    encoder_speed.main()
    result = json.loads(path.read_text(encoding="utf-8"))
    peers = {"transformers, eager", "transformers, sdpa", "fairseq"}
    models = result["models"]
    assert set(models) == {"hubert_base", *encoder_speed.STUDENTS} | peers
    for name, model in models.items():
        assert set(model["speed"]) == {"1", "2"}
        for size, figures in model["speed"].items():
            assert len(figures["seconds"]) == 2 and min(figures["seconds"]) > 0
            assert figures["best_rtf"] == pytest.approx(min(figures["seconds"]) / (0.5 * int(size)))
        assert (model["difference_to_ours"] is not None) == (name in peers)
    for name in peers:  # the same model: the same size and arithmetic, the same features
        assert models[name]["parameters"] == models["hubert_base"]["parameters"]
        assert models[name]["difference_to_ours"] < 1e-4
        # fairseq pads an odd number of frames
        assert models[name]["gmacs_per_10s"] == pytest.approx(models["hubert_base"]["gmacs_per_10s"], rel=0.03)
    assert models["deep_thin_fbank"]["gmacs_per_10s"] < 0.5 * models["deep_thin"]["gmacs_per_10s"]
    targets = [row["target"] for row in result["comparisons"]]
    assert targets.count(1.15) == 2 and 2.0 in targets and 5.0 in targets
    printed = capsys.readouterr().out
    assert all(name in printed for name in models)
    assert printed.count("target: at least") == 4


def test_ratios_are_taken_round_by_round():
    """The machine slowed down after the first round, for both alike."""
    assert encoder_speed.ratio([2.0, 20.0, 40.0], [1.0, 10.0, 20.0]) == 2.0
    names = ["hubert_base", "transformers, eager", "transformers, sdpa", "fairseq", *encoder_speed.STUDENTS]
    seconds = dict(zip(names, ([4.0], [6.0], [5.0], [8.0], [2.0], [1.0], [0.5]), strict=True))
    rows = {what: value for what, value, _ in encoder_speed.compare(seconds, names[1:4])}
    assert rows["hubert_base against transformers, sdpa"] == 1.25
    assert rows["hubert_base against fairseq"] == 2.0
    assert rows["deep_thin_fbank against hubert_base"] == 8.0
    assert rows["deep_thin_fbank against deep_thin"] == 4.0


def test_other_features_are_an_error():
    ours = encoder_speed.Subject("ours", torch.nn.Identity(), torch.from_numpy)
    peer = encoder_speed.Subject("peer", torch.nn.Identity(), lambda waves: torch.from_numpy(waves) + 2e-4)
    with pytest.raises(RuntimeError, match="peer"):
        encoder_speed.check_agreement(ours, [peer], encoder_speed.noise(1, 0.1))


@pytest.mark.parametrize("arguments", [["--width-divisor", "3"], ["--rounds", "0"], ["--batch-sizes", "1,0"]])
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit):
        encoder_speed.parse_arguments(arguments)
    assert "must be" in capsys.readouterr().err
