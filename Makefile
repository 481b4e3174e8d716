# Two commands for a fresh machine with Python 3.11 or newer:
#   make demo   set everything up and compress, measure and report a real network
#   make test   set everything up and run the tests

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo yes),$(p))))
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -q -c constraints.txt
DEMO := $(VENV)/.demo
DEV := $(VENV)/.dev

ZOO := .venv-zoo/.zoo

.PHONY: demo test test-gpu check lint types layers zoo zoo-runs zoo-models tensorrt-api arm64 clean

demo: $(DEMO)
	$(BIN)/edgekit run recipes/mnist-resnet8 -o runs/mnist-resnet8

test: $(DEV)
	$(BIN)/python -m pytest

# Only the tests that need an NVIDIA GPU; TensorRT itself where it is installed.
test-gpu: $(DEV)
	$(BIN)/python -m pytest -m gpu

check: lint types layers

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

layers: $(DEV)
	$(BIN)/lint-imports

# Hours: whole runs on networks that people have, then every network of torchvision and timm's
# families, pruned and proved. What zoo-models has done it does not do again; ZOO_ARGS="--shard 1/2".
zoo: zoo-runs zoo-models

zoo-runs: $(DEV)
	$(BIN)/python -m pytest -m zoo

zoo-models: $(ZOO)
	.venv-zoo/bin/python benchmarks/zoo.py --work build/zoo $(ZOO_ARGS)
	.venv-zoo/bin/python benchmarks/zoo.py --work build/zoo --table

# What the Python modules of TensorRT 10 and 11 offer, for tests/tensorrt_api. Needs gcc and binutils.
tensorrt-api: $(DEV)
	$(BIN)/python -m tests.tensorrt_api.record build/tensorrt-api

# An emulated arm64 board, and the tests that need one. Needs root; makes build/arm64 the first time.
arm64: $(DEV)
	tests/arm64/board.sh build/arm64 $(BIN)/python $(BIN)/python -m pytest tests/arm64

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(DEMO): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[demo]"
	touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[dev,recipes]"
	touch $@

# Of its own: torchvision asks for a version of torch that need not be the constraints' one.
$(ZOO): pyproject.toml constraints.txt benchmarks/zoo-requirements.txt
	$(PYTHON) -m venv .venv-zoo
	grep -v '^torch==' constraints.txt > .venv-zoo/constraints.txt
	.venv-zoo/bin/python -m pip install -q -c .venv-zoo/constraints.txt \
		-r benchmarks/zoo-requirements.txt -e ".[torch]"
	touch $@

clean:
	rm -rf $(VENV) .venv-zoo runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
