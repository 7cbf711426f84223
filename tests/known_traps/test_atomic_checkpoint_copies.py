"""fairseq copies checkpoints to checkpoint_last.pt in place: a kill during the copy would leave a truncated file."""

import shutil

import pytest
from fairseq.file_io import PathManager

import colld_fairseq  # noqa: F401


def test_a_copy_that_dies_leaves_the_old_file(tmp_path, monkeypatch):
    new, last = tmp_path / "checkpoint1.pt", tmp_path / "checkpoint_last.pt"
    new.write_bytes(b"new" * 1000)
    last.write_bytes(b"old")

    def die_halfway(source, target, *args, **kwargs):
        with open(target, "wb") as out:
            out.write(b"new")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        for name in ("copyfile", "copy", "copy2"):
            patched.setattr(shutil, name, die_halfway)
        with pytest.raises(KeyboardInterrupt):
            PathManager.copy(str(new), str(last), overwrite=True)
    assert last.read_bytes() == b"old"
    assert PathManager.copy(str(new), str(last), overwrite=True)
    assert last.read_bytes() == new.read_bytes()
    assert not list(tmp_path.glob("*.partial"))
