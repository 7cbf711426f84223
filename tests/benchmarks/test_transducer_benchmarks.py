"""The transducer benchmarks run on small shapes, and compare what they say they compare."""

import json
import sys

import pytest
import torch
import transducer_greedy
import transducer_joiner
import transducer_loss


@pytest.mark.parametrize("kind", ["lstm", "stateless"])
def test_planted_network_emits_what_is_due(kind):
    with torch.inference_mode():
        network = transducer_greedy.PlantedNetwork(kind, 50)
        scorer = transducer_greedy.Scorer(
            [network], [transducer_greedy.WIDTH], 0, [transducer_greedy.PAD, transducer_greedy.EOS]
        )
        frames, lengths = transducer_greedy.make_batch(network, 3)
        hypotheses = [h for (h,) in transducer_greedy.GreedySearch()(scorer, frames, lengths)]
    rate = transducer_greedy.LABEL_RATE / transducer_greedy.FRAME_RATE
    assert [len(h.tokens) for h in hypotheses] == [round(rate * length) for length in lengths.tolist()]
    assert all(len(set(h.frames)) == len(h.frames) and len(set(h.tokens)) > 5 for h in hypotheses)


def test_greedy_benchmark(monkeypatch, tmp_path, capsys):
    path = tmp_path / "greedy.json"
    monkeypatch.setattr(transducer_greedy, "SECONDS", (1.0, 2.0))
    monkeypatch.setattr(sys, "argv", ["transducer_greedy.py", "--quick", "--vocabulary", "60", "--json", str(path)])
    assert transducer_greedy.main() == 0
    result = json.loads(path.read_text(encoding="utf-8"))
    assert [case["predictor"] for case in result["cases"]] == ["lstm", "stateless"]
    for case in result["cases"]:
        assert set(case["cpu_seconds"]) == set(transducer_greedy.SEARCHES) and min(case["cpu_seconds"].values()) > 0
    slow = {
        **result["cases"][0],
        "batch": transducer_greedy.TARGET_BATCH,
        "times_batched": {"loop over utterances": 4.9},
    }
    assert transducer_greedy.missed({"cases": [slow]}) == ["lstm"]
    assert "time / batched" in capsys.readouterr().out


def test_loss_benchmark(monkeypatch, tmp_path, capsys):
    """Without the peers that compile for seconds."""
    path = tmp_path / "loss.json"
    plain = transducer_loss.load_peers
    quick = {"ours", "ours, in place", "ours, packed", "ours, pruned", "autograd wavefront"}
    monkeypatch.setitem(sys.modules, "warprnnt_numba", None)
    monkeypatch.setattr(transducer_loss, "measure_peak", lambda case, name, args: 2**20)
    options = ["--device", "cpu", "--quick", "--cases", "short,speech", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["transducer_loss.py", *options])
    assert set(plain("cpu", 1)[0]) - {"torchaudio"} == quick
    assert transducer_loss.main() == 0
    result = json.loads(path.read_text(encoding="utf-8"))
    assert "warprnnt_numba" in result["missing"]
    for case in result["cases"]:
        base = case["losses"]["ours"]
        assert case["losses"]["autograd wavefront"] == pytest.approx(base, rel=1e-5)
        assert 0 < case["gradient_errors"]["ours"] < 1e-6 and max(case["gradient_errors"].values()) < 1e-4
    packed = "ours, packed"
    assert packed in result["cases"][0]["skipped"] and packed in result["cases"][1]["seconds"]
    assert "losses agree" in capsys.readouterr().out


def test_joiner_and_loss_benchmark(monkeypatch, tmp_path, capsys):
    """In this process, without the peers that compile for seconds; the targets are those of large cases."""
    path = tmp_path / "joined.json"
    monkeypatch.setitem(sys.modules, "warprnnt_numba", None)

    def measure(name, case, args, gradients=""):
        args.gradients = gradients
        return transducer_joiner.measure_here(name, case, args, transducer_loss.kilobytes)

    monkeypatch.setattr(transducer_joiner, "measure", measure)
    options = "--device cpu --quick --joiner 24 --budget-mb 0.01 --runs 1 --json".split() + [str(path)]
    for more in (["--lattice-kd"], []):
        monkeypatch.setattr(sys, "argv", ["transducer_loss.py", *options, *more])
        assert transducer_loss.main() == 0
        result = json.loads(path.read_text(encoding="utf-8"))
        for case in result["cases"]:
            losses, base = case["losses"], case["losses"]["ours"]
            assert losses["ours, tiled"] == pytest.approx(base, rel=1e-6)
            assert 0 < max(case["gradient_errors"]["ours, tiled"].values()) < 1e-5
            assert min(case["seconds"].values()) > 0 and case["lattice_kd"] == bool(more)
            assert more or losses["autograd wavefront"] == pytest.approx(base, rel=1e-5)
            assert more or {"autograd wavefront", "ours, pruned"} <= set(case["seconds"])
    assert "gradients by" in capsys.readouterr().out
    large = {**result["cases"][0], "logits_mb": 3000.0, "seconds": {"ours": 1.0, "ours, tiled": 1.4}}
    large["peak_mb"] = {"ours, tiled": 500.0}
    assert transducer_joiner.missed_targets(large) == {"time": 1.4, "MB": 500.0}
    assert transducer_joiner.missed_targets({**large, "seconds": {"ours, tiled": 1.4}}) == {}
