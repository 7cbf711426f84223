# Two commands do everything from a bare clone: `make quickstart` and `make test`.
PY := .venv/bin/python
STAMP := .venv/.installed

.PHONY: help install quickstart test test-all fuzz site clean
help:
	@echo "make quickstart  cut Whisper base, distil it, transcribe and translate, table and plot (25 minutes on 2 cores with AMX or AVX512-BF16)"
	@echo "make test        all tests but those marked slow"
	@echo "make test-all    all tests"
	@echo "make fuzz        10,000 cases of input that nobody meant to write for everything that reads some (for the night)"
	@echo "make site        the pages as a site in build/site (pip install mkdocs-material)"
	@echo "make install     only create or complete .venv"

install: $(STAMP)
$(STAMP): setup.py scripts/setup_venv.sh
	bash scripts/setup_venv.sh
	touch $(STAMP)

quickstart: $(STAMP)
	PATH="$(CURDIR)/.venv/bin:$$PATH" colld quickstart

test test-all: $(STAMP)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest -n auto --dist loadfile $(if $(filter test,$@),-m "not slow")

CASES ?= 10000
fuzz: $(STAMP)
	$(PY) tests/fuzz --cases $(CASES)

site:
	python3 scripts/gather_pages.py build/pages
	mkdocs build --strict

clean:
	rm -rf .venv build *.egg-info
