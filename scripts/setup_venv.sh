#!/usr/bin/env bash
# Create (or complete) the virtual environment .venv with everything the project needs. Safe to run again.
# PYTHON chooses the interpreter (3.11 or 3.12), TORCH the torch requirement, EXTRAS the optional extras.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
TORCH=${TORCH:-torch==2.13.0}
EXTRAS=${EXTRAS:-test,lm}

"$PYTHON" -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else
  f"Python {v[0]}.{v[1]} is not supported: set PYTHON to a 3.11 or 3.12 interpreter")'
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then
    pip install "$TORCH"
  else
    # Without a GPU take the CPU build where an index offers one; the default build also runs, it is only larger.
    pip install "${TORCH}+cpu" 2>/dev/null || pip install "$TORCH"
  fi
fi
pip install --quiet -e ".[${EXTRAS}]"
# Without its dependencies on purpose, see setup.py.
pip install --quiet --no-deps "ve-fairseq==0.12.3"
