import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "manifest_loading.py"


def load_script():
    spec = importlib.util.spec_from_file_location("manifest_loading", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_readers_read_the_written_files(tmp_path):
    script = load_script()
    script.write_manifests(tmp_path, rows=120)
    ours = script.measure("colld_fairseq", "speech-to-text", tmp_path)
    theirs = script.measure("fairseq", "speech-to-text", tmp_path)
    assert ours["rows"] == theirs["rows"] == 120
    assert 0 < ours["seconds"] < 10 and ours["peak_mb"] >= ours["imports_mb"] > 10
