# One interpreter, one environment. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TORCH_INDEX ?=
PIP_EXTRA := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)
OUT ?= demo-out
DATA ?= data
STUDY ?= utility-study
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export OMP_NUM_THREADS ?= 2

.PHONY: help setup demo test test-slow lint types contracts docs docs-check bench bench-dp utility clean constraints

help: ## Show this list
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (once; some minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet $(PIP_EXTRA) -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(READY) ## Make the virtual environment in .venv

demo: $(READY) ## Run the full pipeline on invented patients and print the report's path (OUT=folder)
	@$(BIN)/meninx demo $(OUT) --overwrite

test: lint types contracts docs-check ## Lint, types, import contracts, docs and tests, with one summary
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow"

test-slow: $(READY) ## The tests that take minutes
	@$(BIN)/pytest -m slow

lint: $(READY) ## Style, spelling, structure and unused code
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/codespell src tests docs tools benchmarks *.md
	@$(BIN)/python tools/check_structure.py
	@$(BIN)/python tools/check_unused.py

types: $(READY) ## Strict type check
	@$(BIN)/mypy --no-error-summary

contracts: $(READY) ## The layers and the imports they allow
	@$(BIN)/lint-imports --no-cache > .contracts.log 2>&1 || { cat .contracts.log; rm -f .contracts.log; exit 1; }
	@rm -f .contracts.log

docs: $(READY) ## Write the reference pages from the program
	@$(BIN)/python tools/build_docs.py

docs-check: $(READY) ## Fail when a reference page is not what the program says
	@$(BIN)/python tools/build_docs.py --check

bench: $(READY) ## The benchmarks behind docs/benchmarks.md
	@$(BIN)/python benchmarks/bench_bootstrap.py

bench-dp: $(READY) ## Time and memory of private training; writes its table into docs/benchmarks.md (15 min)
	@$(BIN)/python benchmarks/bench_dp.py --memory --write docs/benchmarks.md

utility: $(READY) ## Utility against epsilon on real images (DATA=prepared datasets, STUDY=results; 1 h); table and figure
	@$(BIN)/python benchmarks/utility.py --data $(DATA) --out $(STUDY)
	@$(BIN)/python benchmarks/utility.py --out $(STUDY) --write docs/results.md --figure docs/img/utility.png

constraints: $(READY) ## Write constraints.txt from the environment
	@$(BIN)/python tools/write_constraints.py

clean: ## Remove the environment, caches and the demo's output
	@rm -rf $(VENV) demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
