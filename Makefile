# make demo | make test | make lint: each makes the environment first, and works twice in a row.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
CXX ?= c++
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
EXTRAS := ort,deepspeed,aml,serve,example,dev

.PHONY: help check env demo test test-long coverage-table families-table lint format clean

help:
	@echo "make demo    fine-tune a small GPT-2 with all four run configs; results in outputs/demo"
	@echo "             HOMER_CACHE=DIR make demo trains on the real text found there"
	@echo "make test    the whole test suite, on WORKERS=2 processes"
	@echo "make test-long       what takes too long for it: every model type"
	@echo "make coverage-table  measures every model type and writes docs/reference/models.md"
	@echo "make families-table  the same for further families: docs/reference/model-families.md"
	@echo "make lint    ruff and mypy"
	@echo "make clean   remove the environment and outputs"

check:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  echo "error: Python 3.11 is needed (onnxruntime-training 1.19.2 has no build for newer ones)." >&2; \
	  echo "    where: PYTHON=$(PYTHON)" >&2; \
	  echo "    fix:   install Python 3.11, or run make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: Python's venv module is needed." >&2; \
	  echo "    fix:   install the package python3.11-venv" >&2; exit 2; }
	@command -v "$(CXX)" >/dev/null || { \
	  echo "error: a C++ compiler is needed: DeepSpeed compiles its CPU communication at first use." >&2; \
	  echo "    where: CXX=$(CXX)" >&2; \
	  echo "    fix:   install g++ or clang++, or set CXX" >&2; exit 2; }

env: check $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "making the environment in $(VENV) (a minute or two) ..."
	@"$(PYTHON)" -m venv "$(VENV)"
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

demo: env
	@PATH="$(abspath $(BIN)):$$PATH" "$(BIN)/python" examples/homer_gpt2/demo.py --output_dir outputs/demo

# Files of tests share the cores, each with one thread of its own.
test: env
	@PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest \
	  --numprocesses "$(WORKERS)" --dist loadfile

test-long: env
	@PATH="$(abspath $(BIN)):$$PATH" "$(BIN)/python" -m pytest -m long

# ARGS="--only bert,t5 --jobs 1 --fresh" picks what is measured.
coverage-table: env
	@PATH="$(abspath $(BIN)):$$PATH" "$(BIN)/python" -m tests.models.table $(ARGS)

families-table: env
	@PATH="$(abspath $(BIN)):$$PATH" "$(BIN)/python" -m tests.models.families_page

lint: env
	@"$(BIN)/ruff" check .
	@"$(BIN)/ruff" format --check .
	@"$(BIN)/mypy"

format: env
	@"$(BIN)/ruff" check --fix .
	@"$(BIN)/ruff" format .

clean:
	rm -rf "$(VENV)" outputs build dist *.egg-info
