# Every target makes the virtual environment .venv first, if it is missing or older than the lock file.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup repro test test-all lint bench

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ovseg needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch .venv/ready

repro: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

PYTEST = PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder

test: setup # a process for each core, with one thread each
	$(PYTEST) -m "not slow" $(ARGS)

test-all: setup # with the tests that start whole pipelines or kill many processes
	$(PYTEST) $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks
