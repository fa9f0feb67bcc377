# make demo       the method from end to end on real photographs, with pictures and scores
# make test       linter, formatter and all quick tests: minutes
# make test-slow  the other tests: trainings that are killed or shared by processes, compilers, GPUs
# make test-all   linter, formatter and all tests
# make lint       linter and formatter
# make docs       the site, in site/
# Each creates .venv, installs the package there and does its whole job.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
# One thread a process, since there is a process for every core. One that runs out of tests takes
# some of another's.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n auto --dist worksteal

.PHONY: demo docs lint test test-slow test-all

demo: $(INSTALLED)
	$(VENV)/bin/davi demo

docs: $(INSTALLED)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(VENV)/bin/python docs/configuration.py
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	@echo "open site/index.html"

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

test: lint
	$(PYTEST)

test-slow: $(INSTALLED)
	$(PYTEST) -m "slow or gpu"

test-all: lint
	$(PYTEST) -m ""

$(INSTALLED): setup.py
	$(PYTHON) -m venv $(VENV)
	@echo "installing PyTorch and the rest into $(VENV): some 5 GB, a few minutes"
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
