"""Files are written atomically, in full or not at all."""

import os
import subprocess
import sys

import pytest
from commands import REPOSITORY, environment

from colld_fairseq.files import split_paths, write_atomically


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "folder" / "a.bin"
    write_atomically(path, b"one")
    write_atomically(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["a.bin"]


def test_two_writers_with_the_same_process_id(tmp_path, monkeypatch):
    """On two machines, say. The second one begins while the first has not renamed its file yet."""
    path, replace = tmp_path / "a.bin", os.replace

    def later(source, target):
        monkeypatch.setattr(os, "replace", replace)
        write_atomically(path, b"second")
        replace(source, target)

    monkeypatch.setattr(os, "replace", later)
    write_atomically(path, b"first")
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["a.bin"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_atomically(path, b"one")

    def full(source, target):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"two")
    assert path.read_bytes() == b"one" and os.listdir(tmp_path) == ["a.bin"]


def test_lists_of_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("a", "b", "a,b", "c", "c,d", "run_10:30/m.pt", "x,y/e.tsv", "x,y/f.tsv"):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        open(path, "w").close()
    assert split_paths("run_10:30/m.pt:a:run_10:30/m.pt", ":") == ["run_10:30/m.pt", "a", "run_10:30/m.pt"]
    assert split_paths("x,y/e.tsv,x,y/f.tsv,b") == ["x,y/e.tsv", "x,y/f.tsv", "b"]
    assert split_paths(f"{tmp_path}/x,y/e.tsv") == [f"{tmp_path}/x,y/e.tsv"]
    assert split_paths("c,d,b") == ["c,d", "b"], "the longest that exists"
    assert split_paths("b,a") == ["b", "a"]
    assert split_paths("a,b") == ["a,b"], "what exists is not split"
    assert split_paths("b") == ["b"] and split_paths("nope") == ["nope"]
    assert split_paths("nope,b,none") == ["nope", "b", "none"]


def test_errors_name_the_whole_path(tmp_path, monkeypatch):
    """Where a file is missing in a folder with the separator in its name, and beside others."""
    monkeypatch.chdir(tmp_path)
    os.makedirs("run_10:30")
    assert split_paths("run_10:30/m.pt", ":") == ["run_10:30/m.pt"]
    assert split_paths("z.pt:run_10:30/m.pt:run_10:30/n.pt", ":") == ["z.pt", "run_10:30/m.pt", "run_10:30/n.pt"]


def test_home_folder_in_a_list(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert split_paths("a.tsv,~/b.tsv") == ["a.tsv", f"{tmp_path}/b.tsv"]


def test_a_full_disk_is_named_even_where_torch_wraps_it(tmp_path):
    """A limit on the size of files stands for a full disk; the limit is that of a process of its own."""
    code = (
        "import resource, sys, torch\n"
        "from colld_fairseq.files import written_atomically\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "save = lambda file: torch.save({'a': torch.randn(9999)}, file)\n"
        "for write in (save, lambda file: [file.write(bytes(9999)), file.flush()]):\n"
        "    try:\n"
        "        with written_atomically(sys.argv[1]) as file: write(file)\n"
        "    except Exception as error:\n"
        "        print((error if isinstance(error, OSError) else error.__context__).filename)\n"
    )
    out = tmp_path / "x.pt"
    done = subprocess.run(
        [sys.executable, "-c", "import colld_command\n" + code, str(out)],
        env=environment(PYTHONPATH=str(REPOSITORY)), capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(out)] * 2, done.stderr
    assert not list(tmp_path.iterdir())
