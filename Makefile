# Two commands do everything on a machine with Python >= 3.11 and make:
#   make quickstart   the whole path on the embedded world, about ten minutes on two cores
#   make test         lint, types and tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test check lint types install clean

quickstart: install
	$(BIN)/t2l quickstart

test: check
	$(BIN)/python -m pytest

check: lint types

lint: install
	$(BIN)/ruff check t2l tests
	$(BIN)/ruff format --check t2l tests

types: install
	$(BIN)/mypy

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "t2l needs Python 3.11 or newer; pass PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .ruff_cache .mypy_cache
