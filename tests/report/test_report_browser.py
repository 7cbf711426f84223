"""The page of `colld report` in headless Chromium: on a phone, on a wide screen, in the dark and on paper."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import miniature_run
import pytest

from colld_fairseq.cli import main as colld

NODE, CHROMIUM = shutil.which("node"), shutil.which(os.environ.get("CHROMIUM", "chromium"))
pytestmark = pytest.mark.skipif(not (NODE and CHROMIUM), reason="needs node and chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = miniature_run.write_run(tmp_path_factory.mktemp("run") / "prompts")
    assert colld(["report", str(folder), "--resamples", "100"]) == 0
    return folder / "report.html"


LOOKS = ("400", "1600", "400-dark", "760-print")


def test_nothing_is_cut_and_nothing_is_fetched(page, tmp_path):
    command = [NODE, str(Path(__file__).with_name("look.mjs")), str(page), str(tmp_path), *LOOKS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for look, line in zip(LOOKS, done.stdout.splitlines(), strict=True):
        seen = json.loads(line)
        assert seen["look"] == look and (tmp_path / f"{look}.png").read_bytes().startswith(b"\x89PNG")
        assert seen["scroll"] <= seen["inside"] <= int(look.split("-")[0]), look
        assert not seen["beyond"] and not seen["tables"], look
        assert seen["requests"] == [page.as_uri()] and seen["scripts"] is None
        assert (seen["background"] == "rgb(255, 255, 255)") == (look != "400-dark")
        assert len(seen["durations"]) > 5 and all(one and 0.4 < one < 1.5 for one in seen["durations"])
