# Two commands for a fresh machine with Python 3.11 or newer:
#   make demo   set everything up and compress, measure and report a real network
#   make test   set everything up and run the tests

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo yes),$(p))))
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -q -c constraints.txt
DEMO := $(VENV)/.demo
DEV := $(VENV)/.dev

.PHONY: demo test check lint types layers zoo clean

demo: $(DEMO)
	$(BIN)/edgekit run recipes/mnist-resnet8 -o runs/mnist-resnet8

test: $(DEV)
	$(BIN)/python -m pytest

check: lint types layers

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

layers: $(DEV)
	$(BIN)/lint-imports

zoo: $(DEV)
	$(BIN)/python -m pytest -m zoo

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(DEMO): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[demo]"
	touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[dev,recipes]"
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
