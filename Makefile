# make demo: install and run the whole road on phantoms.  make test: all tests.  make check: format, lint, types, tests.
# Each target makes .venv by itself; PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Tests run side by side, each on one core: torch wins less by a second thread than a second test does.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow check format lint types link clean

demo: $(INSTALLED)
	$(BIN)/foveola run recipes/demo.yaml

test: $(INSTALLED)
	$(PYTEST) -m "not slow and not gpu"

test-slow: $(INSTALLED)
	$(PYTEST) -m "slow and not gpu"

check: lint types test

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(INSTALLED) link
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Foveola needs Python 3.11 or later; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

# The type checkers see the package's name through these links; nothing else needs them.
link:
	mkdir -p .link/foveola
	for part in __init__.py bench devices export recipes runtime tests toolkit; do ln -sfn ../../$$part .link/foveola/$$part; done

clean:
	rm -rf $(VENV) .link build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache runs
