"""Files are there whole or not at all."""

import os

import pytest

from colld_fairseq.files import write_whole


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "folder" / "a.bin"
    write_whole(path, b"one")
    write_whole(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["a.bin"]


def test_two_writers_with_the_same_process_id(tmp_path, monkeypatch):
    """On two machines, say. The second one begins while the first has not renamed its file yet."""
    path, replace = tmp_path / "a.bin", os.replace

    def later(source, target):
        monkeypatch.setattr(os, "replace", replace)
        write_whole(path, b"second")
        replace(source, target)

    monkeypatch.setattr(os, "replace", later)
    write_whole(path, b"first")
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["a.bin"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_whole(path, b"one")

    def full(source, target):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"two")
    assert path.read_bytes() == b"one" and os.listdir(tmp_path) == ["a.bin"]
