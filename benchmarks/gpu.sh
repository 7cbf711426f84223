#!/bin/bash
# Everything that only a GPU can show, in at most eight minutes on one of them: that every CUDA path gives what the CPU
# gives, and how fast and how large training is. Writes OUT/gpu.json and OUT/gpu.md.
#
#   benchmarks/gpu.sh                               the GPU, real sizes
#   benchmarks/gpu.sh --device cpu --preset tiny    the same in miniature
cd "$(dirname "$0")/.." || exit 1
PYTHON=.venv/bin/python
[ -x "$PYTHON" ] || PYTHON=python
exec "$PYTHON" benchmarks/gpu.py "$@"
