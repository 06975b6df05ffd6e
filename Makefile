# `make demo` and `make test` work on a fresh clone with nothing but Python 3.11+ and make.
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11 python,$(shell \
	$(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin

# Real data for the tests that want some; without it they skip and say so.
ifneq ($(wildcard ../shared/data),)
export MEDSEQ_DATA ?= $(abspath ../shared/data)
endif

.PHONY: help install demo test lint typecheck pytest soak format figures hooks clean

help:
	@echo "make demo       restore the sample series into demo_output/"
	@echo "make test       ruff, mypy and every test"
	@echo "make soak       kills, faults and fuzzing in full counts; hours"
	@echo "make lint       ruff check and format check"
	@echo "make typecheck  mypy"
	@echo "make format     let ruff rewrite the files"
	@echo "make figures    the pictures of the README, from the sample data"
	@echo "make hooks      run the checks before every commit"
	@echo "make clean      remove what make made, the environment included"

demo: $(VENV)/installed
	$(BIN)/medseq demo -o demo_output

test: lint typecheck pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/installed-dev
	$(BIN)/mypy

pytest: $(VENV)/installed-dev
	$(BIN)/python -m pytest

soak: $(VENV)/installed-dev
	$(BIN)/python -m pytest --soak -m soak --timeout 0 -s

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: $(VENV)/installed-dev
	$(BIN)/python pipelines/readme_figures.py

hooks: $(VENV)/installed-dev
	$(BIN)/pre-commit install

install: $(VENV)/installed

# The stamps make a second call quick; a changed lock file or pyproject.toml installs again.
$(VENV)/installed: requirements.lock pyproject.toml | $(BIN)/pip
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/installed-dev: requirements-dev.lock $(VENV)/installed
	$(BIN)/pip install --quiet --requirement requirements-dev.lock
	@touch $@

# pip comes last when an environment is made: without it, an interrupted one is made anew.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "medseq needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

clean:
	rm -rf $(VENV) demo_output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
