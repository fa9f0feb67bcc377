# make demo   the method from end to end on real photographs, with pictures and scores
# make test   linter and all tests
# Each creates .venv, installs the package there and does its whole job.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: demo test

demo: $(INSTALLED)
	$(VENV)/bin/python scripts/demo.py

test: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -m "" -n auto --dist loadfile

$(INSTALLED): setup.py
	$(PYTHON) -m venv $(VENV)
	@echo "installing PyTorch and the rest into $(VENV): some 5 GB, a few minutes"
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
