"""A torchaudio built for CUDA raises OSError beside a CPU torch; fairseq and transformers expect ImportError only."""

import subprocess
import sys

from commands import PACKAGE, environment

CODE = """
import colld_fairseq
import sys
assert sys.modules["torchaudio"] is None
try:
    import torchaudio
except ImportError:
    pass
else:
    raise SystemExit("torchaudio was imported")
from transformers import HubertModel, WhisperFeatureExtractor
print("works")
"""


def test_it_is_treated_as_absent(tmp_path):
    folder = tmp_path / "torchaudio"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from . import lib\nraise OSError('libcudart.so.12: cannot open shared object')\n"
    )
    (folder / "lib.py").write_text("")
    metadata = tmp_path / "torchaudio-2.11.0.dist-info"  # what transformers looks at
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torchaudio\nVersion: 2.11.0\n")
    paths = f"{tmp_path}:{PACKAGE.parent}"
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment(PYTHONPATH=paths), capture_output=True, text=True
    )
    assert done.stdout.strip() == "works", done.stderr[-2000:]
