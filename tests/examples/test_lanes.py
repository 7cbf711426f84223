"""Lanes of jobs: in order, waiting for each other, resumed, stopped by an error or a signal."""

import signal
import subprocess
import sys
import time

import pytest
from commands import REPOSITORY, binary
from job_checks import load_script


@pytest.fixture(scope="module")
def lanes():
    return load_script(REPOSITORY / "examples" / "lanes.py", "lanes")


def write(path, text, seconds=0.2):
    return [sys.executable, "-c", f"import time; time.sleep({seconds}); open({str(path)!r}, 'a').write({text!r})"]


def test_they_run_in_order_wait_for_each_other_and_resume(lanes, tmp_path):
    trace = tmp_path / "trace"
    first = lanes.Job("first", write(trace, "1"))
    other = [lanes.Job("other/second", write(trace, "2"), needs=["first"]), lanes.Job("other/third", write(trace, "3"))]
    lanes.Lanes(tmp_path, threads=1).run([first], other)
    assert trace.read_text() == "123"
    assert (tmp_path / "other" / "third.done").is_file() and (tmp_path / "other" / "third.log").is_file()
    again = lanes.Lanes(tmp_path, threads=1)
    again.run([first], other)  # everything is done: nothing runs again
    again.run([lanes.Job("fourth", write(trace, "4"))])  # one Lanes may run several times
    assert trace.read_text() == "1234"


def test_fewer_lanes_than_chains(lanes, tmp_path):
    """One lane takes the chains one after another, each to its end."""
    trace = tmp_path / "trace"
    chains = [[lanes.Job(f"{name}{i}", write(trace, name, 0)) for i in (1, 2)] for name in "ab"]
    lanes.Lanes(tmp_path, threads=1).run(*chains, lanes=1)
    assert trace.read_text() == "aabb"


def test_a_job_that_fails_stops_the_lanes_and_is_named(lanes, tmp_path):
    bad = lanes.Job("bad", [sys.executable, "-c", "raise SystemExit('no such teacher')"])
    never = lanes.Job("never", write(tmp_path / "trace", "x"), needs=["bad"])
    with pytest.raises(SystemExit, match="(?s)bad failed, see .*no such teacher"):
        lanes.Lanes(tmp_path, threads=1).run([bad], [never])
    assert not (tmp_path / "trace").exists() and not (tmp_path / "bad.done").exists()


def test_a_command_that_is_not_there_stops_the_lanes_and_is_named(lanes, tmp_path):
    never = lanes.Job("never", write(tmp_path / "trace", "x"), needs=["bad"])
    with pytest.raises(SystemExit, match="bad: no-such-command cannot be started .No such file or directory.; see"):
        lanes.Lanes(tmp_path, threads=1).run([lanes.Job("bad", ["no-such-command"])], [never])
    assert not (tmp_path / "trace").exists() and not (tmp_path / "bad.done").exists()


def test_commands_are_those_of_this_python_whether_or_not_its_environment_is_activated(lanes, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    lanes.Lanes(tmp_path, threads=1).run([lanes.Job("which", ["sh", "-c", "command -v fairseq-train"])])
    assert (tmp_path / "which.log").read_text().strip() == binary("fairseq-train")


def test_a_driver_that_is_terminated_takes_its_jobs_along(tmp_path):
    """A job left behind would write into the same folder as the one that the next start resumes."""
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY / "examples")!r})
from lanes import Job, Lanes
Lanes(Path({str(tmp_path)!r}), 1).run([Job("long", {write(tmp_path / "trace", "x", 4)!r})])
"""
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "long.log").exists():
        assert driver.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)  # the log is opened just before the job is started
    driver.send_signal(signal.SIGTERM)
    assert "the same command goes on" in driver.communicate(timeout=60)[1]
    time.sleep(4)
    assert not (tmp_path / "trace").exists() and not (tmp_path / "long.done").exists()
