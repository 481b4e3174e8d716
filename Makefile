# Two commands for a fresh machine with Python 3.11 or newer:
#   make demo   set everything up and compress, measure and report a real network
#   make test   set everything up and run the tests

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo yes),$(p))))
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check lint types layers zoo clean

demo: $(STAMP)
	$(BIN)/edgekit run recipes/mnist-resnet8 -o runs/mnist-resnet8

test: $(STAMP)
	$(BIN)/python -m pytest

check: lint types layers

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

zoo: $(STAMP)
	$(BIN)/python -m pytest -m zoo

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[torch,train,tensorrt-rtx,report,recipes,dev]"
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
