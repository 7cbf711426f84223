"""Python on the front page runs as it stands; Python on other pages compiles, and what it imports is there."""

import ast
import importlib
import re

import numpy as np
import pretrained
import pytest
import soundfile
from commands import REPOSITORY

from colld_fairseq.cli import main as colld

PAGES = [REPOSITORY / "README.md", *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("examples/**/README.md")]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [
    (page.relative_to(REPOSITORY).as_posix(), block) for page in PAGES for block in BLOCK.findall(page.read_text())
]


def test_the_front_page(tmp_path, monkeypatch, capsys):
    """With a small Whisper where the quickstart leaves its student, and a recording of noise."""
    whisper = pretrained.write_whisper(tmp_path / "whisper")
    out = tmp_path / "runs" / "quickstart" / "l1cos"
    out.mkdir(parents=True)
    arguments = ["--student", f"hf:{whisper}", "--decoder-from", f"hf:{whisper}", "--out", str(out / "model.pt")]
    assert colld(["assemble", *arguments]) == 0
    noise = np.random.default_rng(0).standard_normal(8000) * 0.1
    soundfile.write(tmp_path / "charla.wav", noise, 16000)
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    (block,) = [block for page, block in BLOCKS if page == "README.md"]
    exec(compile(block, "README.md", "exec"), {})
    score, _, text = capsys.readouterr().out.strip().partition(" ")
    assert float(score) < 0 and text


@pytest.mark.parametrize("page, block", BLOCKS, ids=[page for page, _ in BLOCKS])
def test_imports_are_there(page, block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and not node.level:  # of other files of the same page
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), node.module
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
