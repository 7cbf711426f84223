"""Format, ruff and types, as pyproject.toml asks for them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def output_of(*command):
    done = subprocess.run([str(word) for word in command], cwd=REPOSITORY, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def ruff():
    """That of this Python's environment, else another one of the version that setup.py asks for."""
    beside = Path(sys.executable).with_name("ruff")
    program = str(beside) if beside.exists() else shutil.which("ruff")
    assert program, "ruff is not installed: pip install '.[test]'"
    wanted = re.search(r'"ruff>=([0-9.]+),', (REPOSITORY / "setup.py").read_text())[1]
    version = output_of(program, "--version")[1]
    assert version.startswith(f"ruff {wanted}."), f"{program} is {version}: pip install '.[test]'"
    return program


def test_ruff_has_nothing_to_say():
    code, said = output_of(ruff(), "check", "--no-cache", ".")
    assert code == 0, said


def test_everything_is_formatted():
    code, said = output_of(ruff(), "format", "--no-cache", "--check", ".")
    assert code == 0, said


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Of mypy: the second test need not read again what the first has read."""
    return tmp_path_factory.mktemp("mypy")


def test_types_of_the_public_api(cache):
    code, said = output_of(sys.executable, "-m", "mypy", "--cache-dir", cache)
    assert code == 0, said


def test_a_wrong_type_is_seen(cache, tmp_path):
    """Of a function of the public API, as a user of it would."""
    (tmp_path / "user.py").write_text(
        "from colld_fairseq.data.audio import read_audio\nread_audio(3)\n"
        "from colld_fairseq.scoring.bootstrap import interval\ninterval()\n"
    )
    config = ["--config-file", REPOSITORY / "pyproject.toml", "--cache-dir", cache]
    code, said = output_of(sys.executable, "-m", "mypy", *config, tmp_path / "user.py")
    assert code == 1 and said.count("user.py:") == 2, said
