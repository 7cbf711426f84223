"""How every command begins and ends: without what it does not need, and in one line."""

import argparse
import errno
import os
import subprocess
import sys

import pytest
from commands import REPOSITORY, environment

from colld_fairseq.cli import SUBCOMMANDS, main, options

HEAVY = {
    "torch",
    "transformers",
    "fairseq",
    "hydra",
    "omegaconf",
    "sklearn",
    "matplotlib",
    "sentencepiece",
    "safetensors",
}
READING = {"numpy", "pyarrow", "soundfile", "rich"}
LIGHT = """
import sys, time
import colld_command
code = colld_command.main(sys.argv[1:])
print(code, time.process_time(), *{name.split(".")[0] for name in sys.modules}, file=sys.stderr)
"""


def light(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *map(str, arguments)],
        env=environment(PYTHONPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
    )
    code, seconds, *modules = done.stderr.splitlines()[-1].split()
    return int(code), float(seconds), set(modules), done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["transcribe", "--help"], ["features", "--help"], ["doctor", "-h"]])
def test_help_is_there_at_once(arguments):
    code, seconds, modules, text = light(*arguments)
    assert code == 0 and "usage: colld" in text
    assert not modules & (HEAVY | READING) and seconds <= 0.6


def test_scoring_starts_without_models(tmp_path):
    (tmp_path / "a").write_text("a b\n")
    code, seconds, modules, text = light("score", "--hyp", tmp_path / "a", "--ref", tmp_path / "a")
    assert code == 0 and "100.00" in text
    assert not modules & HEAVY and seconds <= 0.9


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_command_has_help(name, capsys):
    """Through the whole parser: it puts defaults of positional arguments aside, and help may not ask for them then."""
    assert main([name, "--help"]) == 0
    assert f"usage: colld {name}" in capsys.readouterr().out


def test_every_command_has_options():
    for name in SUBCOMMANDS:
        parser = argparse.ArgumentParser()
        options.of(name)(parser.add_argument)
        assert len(parser._actions) > 1


def actions(name):
    parser = argparse.ArgumentParser()
    options.of(name)(parser.add_argument)
    return parser._actions


NUMBERS = {
    name: [one for one in actions(name) if one.type or (isinstance(one.default, (int, float)) and one.nargs != 0)]
    for name in SUBCOMMANDS
}


@pytest.mark.parametrize("name", [name for name in SUBCOMMANDS if NUMBERS[name]])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "x", "", "1e999"])
def test_numbers_that_make_no_sense_are_refused(name, value, capsys):
    for action in NUMBERS[name]:
        assert action.type is not None and action.type not in (int, float), action.dest
        needed = [one for one in actions(name) if one.required and one.option_strings and one.dest != action.dest]
        required = [f"{one.option_strings[0]}={(one.choices or [1])[0]}" for one in needed]
        assert main([name, *required, f"{action.option_strings[0]}={value}"]) == 2
        assert f"argument {action.option_strings[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, message",
    [
        (OSError(errno.ENOSPC, "No space left on device", "o.tsv"), "o.tsv: No space left on device; make room"),
        (PermissionError(errno.EACCES, "Permission denied", "o"), "o: Permission denied; change its permissions"),
        (OSError(errno.EIO, "Input/output error"), "error: Input/output error\n"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "No space left on device; make room"),
    ],
)
def test_errors_of_the_operating_system_are_told_in_one_line(error, message, monkeypatch, capsys):
    def fail(argv):
        raise error

    monkeypatch.setattr("colld_fairseq.cli.run", fail)
    assert main(["score"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("colld score: error: ") and message in text and text.count("\n") == 1


def test_what_libraries_wrap_is_told_and_what_is_a_fault_is_not(monkeypatch, capsys):
    def wrapped(argv):
        try:
            raise OSError(errno.EFBIG, "File too large", "m.pt")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904 - as torch.save does

    def fault(argv):
        raise KeyError("a fault of ours")

    monkeypatch.setattr("colld_fairseq.cli.run", wrapped)
    assert main(["average"]) == 2 and "m.pt: File too large" in capsys.readouterr().err
    monkeypatch.setattr("colld_fairseq.cli.run", fault)
    with pytest.raises(KeyError):
        main(["average"])


def test_interrupted(monkeypatch, capsys):
    def stop(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("colld_fairseq.cli.run", stop)
    assert main(["transcribe"]) == 130 and not capsys.readouterr().err


@pytest.mark.parametrize("command", [["--help"], ["score", "--hyp", "many", "--ref", "many"]])
def test_a_reader_that_has_gone(command, tmp_path):
    (tmp_path / "many").write_text("a\n" * 3)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "colld_command", *command],
        env=environment(PYTHONPATH=str(REPOSITORY)), cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(writer)
    # SIGPIPE is 141 in a shell; argparse itself takes no notice where output is not buffered.
    assert done.returncode in ((0, -13) if command == ["--help"] else (-13,)) and not done.stderr


@pytest.mark.parametrize(
    "locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_output_that_is_not_utf8(locale, tmp_path):
    (tmp_path / "a").write_text("а\n", encoding="utf-8")
    (tmp_path / "lang").write_text("ru\n")
    command = ["score", "--hyp", "a", "--ref", "a", "--lang", "ы"]
    done = subprocess.run(
        [sys.executable, "-m", "colld_command", *command],
        env=environment(PYTHONPATH=str(REPOSITORY), **locale), cwd=tmp_path, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 2 and b"Traceback" not in done.stderr and b"is no language" in done.stderr


def test_a_full_device_as_output(tmp_path):
    (tmp_path / "a").write_text("a\n")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "colld_command", "score", "--hyp", "a", "--ref", "a"],
            env=environment(PYTHONPATH=str(REPOSITORY)), cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2 and done.stderr == "colld score: error: No space left on device; " + (
        "make room, then give the same command again\n"
    )
