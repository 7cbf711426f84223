"""Jobs of the drivers: in order, waiting for each other, resumed, stopped by an error or a signal."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from commands import REPOSITORY, binary

from examples.driver import jobs
from examples.driver.jobs import Job, failures, run_jobs, spent


def write(path, text, seconds=0.2):
    return [sys.executable, "-c", f"import time; time.sleep({seconds}); open({str(path)!r}, 'a').write({text!r})"]


def test_they_run_in_order_wait_for_each_other_and_resume(tmp_path):
    trace, out = tmp_path / "trace", tmp_path / "out"
    jobs = [
        Job("first", write(trace, "1")),
        Job("other/third", write(trace, "3"), needs=["other/second"]),
        Job("other/second", write(trace, "2"), needs=["first"]),
    ]
    run_jobs(out, jobs, parallel=2)
    assert trace.read_text() == "123"
    assert (out / "other" / "third.done").is_file() and (out / "other" / "third.log").is_file()
    assert len((out / "commands.sh").read_text().splitlines()) == 3
    run_jobs(out, [*jobs, Job("fourth", write(trace, "4"), needs=["other/third"])], parallel=1)
    assert trace.read_text() == "1234"  # what is done does not run again


def test_jobs_run_at_the_same_time(tmp_path):
    """Each waits for the file that the other writes first."""
    code = """
import sys, time
open(sys.argv[1], "w").close()
while True:
    try:
        open(sys.argv[2]).close()
        break
    except FileNotFoundError:
        time.sleep(0.05)
"""
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    jobs = [Job("x", [sys.executable, "-c", code, a, b]), Job("y", [sys.executable, "-c", code, b, a])]
    assert run_jobs(tmp_path / "out", jobs, parallel=2, deadline=time.time() + 120)


def test_earlier_jobs_of_the_list_come_first(tmp_path):
    trace = tmp_path / "trace"
    jobs = [
        Job(f"{name}{i}", write(trace, name, 0), needs=[f"{name}1"] if i == 2 else []) for name in "ab" for i in (1, 2)
    ]
    run_jobs(tmp_path, jobs, parallel=1)
    assert trace.read_text() == "aabb"


def test_a_job_that_fails_stops_the_others_and_is_named(tmp_path):
    bad = Job("bad", [sys.executable, "-c", "raise SystemExit('no such teacher')"])
    long = Job("long", write(tmp_path / "trace", "x", 60))
    never = Job("never", write(tmp_path / "trace", "x"), needs=["bad"])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="(?s)bad failed, see .*no such teacher"):
        run_jobs(tmp_path, [bad, long, never], parallel=2)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not (tmp_path / "trace").exists() and not (tmp_path / "bad.done").exists()
    assert failures(tmp_path) == [f"{tmp_path}/bad.log: the job failed with exit code 1"]
    run_jobs(tmp_path, [Job("bad", ["true"])], parallel=1)
    assert failures(tmp_path) == []


def test_a_command_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SystemExit, match="bad: no-such-command cannot be started .No such file or directory.; see"):
        run_jobs(tmp_path, [Job("bad", ["no-such-command"])], parallel=1)
    assert not (tmp_path / "bad.done").exists()


@pytest.mark.parametrize("again", [Job("a", ["echo", "2"]), Job("a", ["echo", "1"], config={"task": {"x": 2}})])
def test_a_finished_job_is_not_taken_for_one_with_other_options(again, tmp_path):
    run_jobs(tmp_path / "out", [Job("a", ["echo", "1"], config={"task": {"x": 1}})], parallel=1)
    with pytest.raises(SystemExit, match="a was finished with other options.*a.done"):
        run_jobs(tmp_path / "out", [again], parallel=1)
    assert (tmp_path / "out" / "a.log").read_text() == "1\n"


def test_a_folder_may_be_moved(tmp_path):
    run_jobs(tmp_path / "out", [Job("a", ["echo", str(tmp_path / "out" / "x")])], parallel=1)
    (tmp_path / "out").rename(tmp_path / "moved")
    run_jobs(tmp_path / "moved", [Job("a", ["echo", str(tmp_path / "moved" / "x")])], parallel=1)
    assert (tmp_path / "moved" / "a.log").read_text() == f"{tmp_path}/out/x\n"  # it did not run again


def test_commands_are_those_of_this_python_whether_or_not_its_environment_is_activated(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    run_jobs(tmp_path, [Job("which", ["sh", "-c", "command -v fairseq-train"])], parallel=1)
    assert (tmp_path / "which.log").read_text().strip() == binary("fairseq-train")


@pytest.fixture
def driver(tmp_path):
    """A driver in a process of its own, and the process id of its only job, which takes a minute."""
    log = tmp_path / "long.log"
    code = f"""
from pathlib import Path
from examples.driver.jobs import Job, run_jobs
run_jobs(Path({str(tmp_path)!r}), [Job("long", ["sh", "-c", "echo $$; exec sleep 60"])], 1)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
    while not (log.exists() and log.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    return process, int(log.read_text())


def test_a_driver_that_is_terminated_takes_its_jobs_along(driver, tmp_path):
    """A job left behind would write into the same folder as the one that the next start resumes."""
    process, job = driver
    process.send_signal(signal.SIGTERM)
    assert "the same command goes on" in process.communicate(timeout=60)[1]
    with pytest.raises(ProcessLookupError):
        os.kill(job, 0)
    assert not (tmp_path / "long.done").exists()


def test_a_job_that_outlives_its_driver_is_not_started_again_beside_itself(driver, tmp_path):
    process, job = driver
    process.kill()
    process.communicate()
    again = [Job("long", ["true"])]
    with pytest.raises(SystemExit, match="long: still runs from an earlier start; .* end that process: true"):
        run_jobs(tmp_path, again, parallel=1)
    assert not (tmp_path / "long.done").exists()
    os.kill(job, signal.SIGKILL)
    deadline = time.time() + 60
    while not (tmp_path / "long.done").exists() and time.time() < deadline:
        with contextlib.suppress(SystemExit):  # the process may take a moment to end
            run_jobs(tmp_path, again, parallel=1)
    assert (tmp_path / "long.done").exists()


def test_the_note_of_a_finished_job_has_its_time_and_what_it_was(tmp_path):
    run_jobs(tmp_path, [Job("a", ["true"], config={"task": {"data": str(tmp_path)}})], parallel=1)
    note = json.loads((tmp_path / "a.done").read_text())
    assert note["seconds"] >= 0 and note["content"] == [["true"], {"task": {"data": "OUT"}}]
    assert f"data: {tmp_path}" in (tmp_path / "a.yaml").read_text()


def test_what_the_watch_calls_hopeless_is_stopped_for_good(tmp_path, monkeypatch):
    """With what needs it, however far behind; the others run, and the next call does not try it again."""
    monkeypatch.setattr(jobs, "WATCH_SECONDS", 0.2)
    trace = tmp_path / "trace"
    many = [
        Job("dead", write(trace, "d", 60)),
        Job("behind", write(trace, "b"), needs=["dead"]),
        Job("far", write(trace, "f"), needs=["behind"]),
        Job("other", write(trace, "o")),
    ]
    watch = lambda out, job: "it learns nothing" if job.name == "dead" else None  # noqa: E731
    assert run_jobs(tmp_path / "out", many, 2, watch)
    note = json.loads((tmp_path / "out" / "dead.stopped").read_text())
    assert note["reason"] == "it learns nothing" and note["seconds"] > 0
    assert "stopped: it learns nothing" in (tmp_path / "out" / "dead.log").read_text()
    assert trace.read_text() == "o" and failures(tmp_path / "out") == []
    assert run_jobs(tmp_path / "out", many, 2) and trace.read_text() == "o"
    with pytest.raises(SystemExit, match="dead was finished with other options.*dead.stopped"):
        run_jobs(tmp_path / "out", [Job("dead", ["true"])], 1)


def test_at_the_deadline_everything_stops_and_goes_on_later(tmp_path, monkeypatch):
    """The second job ends when there is a file `go`; when it has begun, the clock jumps beyond the deadline."""
    out, trace, begun, go = (tmp_path / name for name in ("out", "trace", "begun", "go"))
    code = f"import os, time\nopen({str(begun)!r}, 'w')\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)"
    clock = time.time
    two = [Job("first", write(trace, "1", 0)), Job("second", [sys.executable, "-c", code], needs=["first"])]
    assert run_jobs(out, two[:1], 1) is True
    with monkeypatch.context() as patch:
        patch.setattr(jobs.time, "time", lambda: clock() + 3600 * begun.exists())
        assert run_jobs(out, two, 1, deadline=clock() + 1800) is False
    assert trace.read_text() == "1" and not (out / "second.done").exists()
    before = spent(out, "second")["seconds"]
    go.touch()
    assert before > 0 and run_jobs(out, two, 1, deadline=time.time() + 600) is True
    assert trace.read_text() == "1" and spent(out, "second")["seconds"] > before


def test_processor_time_is_that_of_the_job_and_its_own_processes(tmp_path):
    """A sleeper takes none, one that computes in a process of its own about as long as it says."""
    burn = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}], check=True)"
    run_jobs(tmp_path, [Job("busy", [sys.executable, "-c", child]), Job("idle", ["sleep", "0.5"])], parallel=2)
    assert 0.5 < spent(tmp_path, "busy")["core_seconds"] < 3
    assert spent(tmp_path, "idle")["core_seconds"] < 0.3 and spent(tmp_path, "idle")["seconds"] >= 0.5
