"""Importing fairseq sets the root logger to DEBUG, and every library prints what it is thinking."""

import subprocess
import sys

from commands import PACKAGE, environment

SHOW = "; root = logging.getLogger(); print(root.level, len(root.handlers))"


def python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split(), done.stderr


def test_import_leaves_the_root_logger_alone():
    assert python("import logging, fairseq" + SHOW)[0] == ["10", "1"]  # else the guard is no longer needed
    configured = "import logging; logging.basicConfig(level=20); import colld_fairseq"
    assert python(configured + SHOW)[0] == ["20", "1"]


def test_the_command_still_tells_what_this_package_has_to_say(tmp_path):
    """Whose import leaves the root logger as it is."""
    code = (
        f"import logging, colld_fairseq, fairseq{SHOW}\nfrom colld_fairseq.cli import main\n"
        "main(['score', '--hyp', 'none', '--ref', 'none'])\n"
        "logging.getLogger('colld_fairseq.x').info('ours')\n"
        "logging.getLogger('matplotlib.x').info('theirs')\n"
    )
    output, error = python(code)
    assert output[:2] == ["30", "0"]
    assert "ours" in error and "theirs" not in error
