"""fairseq's wheels lack `examples` and `scripts`: nothing of ours may import them, directly or through fairseq."""

import ast
import subprocess
import sys

from commands import PACKAGE, environment

BLOCKED = ("examples", "scripts", "fairseq.examples")


def imported_names(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def test_no_module_of_ours_names_them():
    for path in PACKAGE.rglob("*.py"):
        for name in imported_names(path):
            assert not name.startswith(BLOCKED), f"{path} imports {name}"


def test_everything_imports_without_them(tmp_path):
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
    ]
    code = f"import sys\nfor name in {BLOCKED}: sys.modules[name] = None\n" + "\n".join(f"import {m}" for m in modules)
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(PACKAGE.parent)),
        check=True,
    )
