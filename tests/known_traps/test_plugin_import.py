"""--user-dir imports tasks and models only, and nothing when the package is imported already: ours registers itself."""

import subprocess
import sys

import pytest
from commands import PACKAGE, environment

CHECK = """
from fairseq.tasks import TASK_REGISTRY
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import ARCH_MODEL_REGISTRY
assert {"speech_distillation", "multilingual_speech_to_text"} <= set(TASK_REGISTRY)
assert {"colld", "feature_regression", "ctc_attention"} <= set(CRITERION_REGISTRY)
assert {"colld_student_tiny", "student_ctc_tiny", "student_s2t_tiny"} <= set(ARCH_MODEL_REGISTRY)
print("registered")
"""
USER_DIR = "from argparse import Namespace; from fairseq.utils import import_user_module as load\n"
LOAD = "load(Namespace(user_dir={!r})); "


@pytest.mark.parametrize(
    "code, from_clone",
    [
        (USER_DIR + LOAD.format("colld_fairseq") * 2, True),
        (USER_DIR + LOAD.format(str(PACKAGE)), False),
        ("import colld_fairseq\n" + USER_DIR + LOAD.format(str(PACKAGE)), False),
    ],
    ids=["relative path, twice", "absolute path from another folder", "already imported"],
)
def test_everything_is_registered(code, from_clone, tmp_path):
    path = "" if "import colld" not in code else str(PACKAGE.parent)
    done = subprocess.run(
        [sys.executable, "-c", code + "\n" + CHECK], cwd=PACKAGE.parent if from_clone else tmp_path,
        env=environment(PYTHONPATH=path), capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip().endswith("registered"), done.stderr[-2000:]
