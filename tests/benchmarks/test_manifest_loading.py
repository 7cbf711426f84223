import manifest_loading
import pytest


@pytest.fixture
def one_core(monkeypatch):
    """The script keeps its own process on one core; here that would be all tests that follow."""
    monkeypatch.setattr(manifest_loading.os, "sched_setaffinity", lambda pid, cores: None)


def test_both_readers_read_the_written_files(one_core, tmp_path):
    """fairseq's in a process of its own, as the benchmark does with both; ours here, where its imports cost nothing."""
    manifest_loading.write_manifests(tmp_path, rows=120)
    theirs = manifest_loading.measure("fairseq", "speech-to-text", tmp_path)
    ours = manifest_loading.load("colld_fairseq", "speech-to-text", str(tmp_path))
    assert ours["rows"] == theirs["rows"] == 120
    for figures in (ours, theirs):
        assert figures["seconds"] > 0 and figures["peak_mb"] >= figures["imports_mb"] > 10
