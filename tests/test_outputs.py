"""Where results go: never over an input, checked first, one run at a time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import REPOSITORY, environment

from colld_fairseq.errors import ConfigError
from colld_fairseq.files import written_atomically
from colld_fairseq.outputs import check_folder, check_output, only_run


@pytest.fixture
def given(tmp_path):
    path = tmp_path / "data" / "in.tsv"
    path.parent.mkdir()
    path.write_text("results")
    return path


def spellings(path: Path):
    links = path.parent / "links"
    links.mkdir()
    (links / "soft").symlink_to(path)
    os.link(path, links / "hard")
    (path.parent.parent / "other").symlink_to(path.parent)
    return {
        "as it is": path,
        "dots": f"{path.parent}/../{path.parent.name}/./{path.name}",
        "relative": os.path.relpath(path),
        "soft link": links / "soft",
        "hard link": links / "hard",
        "linked folder": path.parent.parent / "other" / path.name,
    }


@pytest.mark.parametrize("which", ["as it is", "dots", "relative", "soft link", "hard link", "linked folder"])
def test_an_input_is_never_an_output(which, given):
    other = given.with_name("other.tsv")
    other.write_text("x")
    with pytest.raises(ConfigError, match="--out .*is an input, which would be overwritten"):
        check_output(spellings(given)[which], "--out", [other, given.with_name("missing"), given])
    assert given.read_text() == "results"
    check_output(given.with_name("new.tsv"), "--out", [other, given])


def test_what_cannot_be_written_is_named(given, tmp_path):
    with pytest.raises(ConfigError, match="--json .*data: is a folder"):
        check_output(given.parent, "--json")
    for path in (given / "x", given / "deeper" / "x"):
        with pytest.raises(ConfigError, match=f"--json {path}: {given} is a file, not a folder"):
            check_output(path, "--json")
    with pytest.raises(ConfigError, match=f"--out {given}: {given} is a file, not a folder"):
        check_folder(given, "--out")
    with pytest.raises(ConfigError, match="--out /proc/nothing/x: cannot be written"):
        check_output("/proc/nothing/x", "--out")
    check_output(tmp_path / "new" / "folder" / "x", "--out")
    assert not list((tmp_path / "new" / "folder").iterdir())


def test_devices_are_written_to_and_stay_devices(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_output(pipe, "--out")
    with written_atomically(pipe) as file:
        file.write(b"through")
    assert os.read(reader, 99) == b"through" and pipe.is_fifo()
    os.close(reader)


HOLD = """
import sys, time, colld_command
from colld_fairseq.outputs import only_run
with only_run(sys.argv[1]):
    print("has", flush=True)
    time.sleep(60)
"""


def test_one_run_at_a_time_and_none_after_a_killed_one(tmp_path):
    out = tmp_path / "out.tsv"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], env=environment(PYTHONPATH=str(REPOSITORY)), stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"has\n"
    with pytest.raises(ConfigError, match=f"out.tsv: another run writes there .process {holder.pid} on"):
        with only_run(out):
            pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    time.sleep(0.05)
    with only_run(out):
        with pytest.raises(ConfigError, match="another run"):
            with only_run(out):
                pass
    assert not list(tmp_path.iterdir())
