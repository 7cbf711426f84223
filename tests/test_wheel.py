"""What a wheel holds, and that it runs where nothing of the clone is."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import colld_fairseq
from colld_fairseq.data.manifest import read_manifest

REPOSITORY = Path(__file__).resolve().parents[1]
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
QUICKSTART = """
import subprocess, sys
import colld_command
from colld_fairseq.cli.quickstart import recipes
sys.path.insert(0, str(recipes()))
from examples.driver import jobs, plan

def prepare_alone(out, all_jobs, parallel):
    print(jobs.USER_DIR)
    (job,) = [one for one in all_jobs if one.name == "prepare"]
    subprocess.run(job.command, cwd=jobs.ROOT, check=True)

plan.run_jobs, plan.write_report = prepare_alone, lambda out: 3
sys.exit(colld_command.main(["quickstart", "results"]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built as pip builds it, from a copy: setuptools leaves folders beside what it builds."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "colld_command.py"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("colld_fairseq", "examples"):
        shutil.copytree(
            REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "model.safetensors")
        )
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder with what pip installs of it, and nothing else."""
    target = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    return target


def test_content(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    modules = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "colld_fairseq").rglob("*.py")}
    assert modules <= set(names)
    assert {"py.typed", "page.html", "page.css", "prompts.zip", "LICENSES.md"} <= {Path(name).name for name in names}
    version = f"colld_fairseq-{colld_fairseq.__version__}"
    assert {name.split("/")[0] for name in names} == {"colld_fairseq", "colld_command.py", f"{version}.dist-info"}
    notices = [name for name in names if name.startswith(f"{version}.dist-info/licenses/")]
    assert {Path(name).name for name in notices} == {"LICENSE", "LICENSES.md"}
    assert wheel.stat().st_size < 20e6


def test_the_command_is_installed(site, tmp_path):
    for arguments in (["--help"], ["quickstart", "--help"]):
        done = subprocess.run(
            [sys.executable, site / "bin" / "colld", *arguments],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert "quickstart" in done.stdout


@pytest.mark.slow
def test_the_quickstart_starts_from_it(site, tmp_path):
    """Its first job finds the prompts, writes where it was called, and the exit code is the report's."""
    done = subprocess.run(
        [sys.executable, "-c", QUICKSTART],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stdout.splitlines()[0] == str(site / "colld_fairseq")
    manifest = read_manifest(str(tmp_path / "results" / "data" / "train_asr.tsv"))
    assert len(manifest) == 1345
    audio = Path(manifest.row(0).audio.partition(":")[0])
    assert audio.is_relative_to(site) and audio.is_file()
