import sys

import pytest
import torch
from fairseq import checkpoint_utils

from colld_fairseq import compat


def test_prepare_runs_once(monkeypatch):
    monkeypatch.setattr(compat, "check_fairseq", lambda: pytest.fail("prepared twice"))
    compat.prepare()


@pytest.mark.parametrize("version, fine", [("1.0.7", False), ("1.3.2", True), ("2.0.0", True)])
def test_old_hydra_is_refused_with_the_command_that_mends_it(version, fine, monkeypatch):
    import hydra

    monkeypatch.setattr(hydra, "__version__", version)
    if fine:
        return compat.check_fairseq()
    with pytest.raises(ImportError, match=r"hydra-core 1\.0\.7.*pip install 'hydra-core>=1\.3\.2'"):
        compat.check_fairseq()


def test_fairseq_without_its_compiled_part_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "fairseq.data.data_utils_fast", None)
    with pytest.raises(ImportError, match="pip install --no-deps ve-fairseq"):
        compat.check_fairseq()


def test_a_torchaudio_that_works_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("works = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    compat.hide_broken_torchaudio()
    assert sys.modules["torchaudio"].works
    monkeypatch.delitem(sys.modules, "torchaudio")


def test_objects_travel_between_workers(tmp_path):
    """As when worker 0 sends a checkpoint to the others: here one worker to itself."""
    from fairseq.distributed import utils
    from omegaconf import OmegaConf

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sent = {"cfg": OmegaConf.create({"a": {"b": 1}}), "weights": torch.arange(4.0)}
        got = utils.broadcast_object(sent, src_rank=0, group=torch.distributed.group.WORLD)
    finally:
        torch.distributed.destroy_process_group()
    assert got["cfg"].a.b == 1 and torch.equal(got["weights"], torch.arange(4.0))


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_save_dir_that_cannot_be_written_is_told_in_one_line(below, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        checkpoint_utils.verify_checkpoint_directory(str(tmp_path / "file" / below))
    assert str(stopped.value).startswith(f"fairseq-train: error: --save-dir {tmp_path}/file")
    assert f"{tmp_path}/file is a file, not a folder; give another path" in str(stopped.value)
    checkpoint_utils.verify_checkpoint_directory(str(tmp_path / "new" / "folder"))
    assert list((tmp_path / "new" / "folder").iterdir()) == []
