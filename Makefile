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
export NO_MKDOCS_2_WARNING := 1
# Where the caller forbids compiled modules, each test process would compile src and tests again (12 s of CPU).
export PYTHONDONTWRITEBYTECODE :=

# `make test-fast PATH=tests/deid` names the tests. Make hands such a variable to every recipe, where it would
# replace the shell's search path, so the recipes get the caller's search path (known to make before 4.4) and
# the usual folders back.
ifeq ($(origin PATH),command line)
TESTS := $(PATH)
CALLER_PATH := $(shell echo "$$PATH")
override PATH := $(CALLER_PATH):/usr/local/bin:/opt/homebrew/bin:/usr/bin:/bin
endif
TESTS ?= tests

.PHONY: help setup shell demo picture test test-fast test-slow coverage lint fix types contracts docs docs-check site \
	bench bench-audit bench-burned-text bench-deid bench-deid-text bench-dp bench-data bench-federated utility build clean constraints

help: ## Show this list
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (once; some minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet $(PIP_EXTRA) -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(READY) ## Make the virtual environment in .venv

shell: $(READY) ## A shell in which `meninx` and the tools are found
	@PATH="$(abspath $(BIN)):$$PATH" $${SHELL:-/bin/sh}

demo: $(READY) ## Run the full pipeline on invented patients and print the report's path (OUT=folder)
	@$(BIN)/meninx demo $(OUT) --overwrite

picture: $(READY) ## Make docs/img/report.png again from the demo's report (OUT=folder; needs chromium)
	@chromium --headless --hide-scrollbars --window-size=1280,860 --screenshot=$(abspath docs/img/report.png) \
		file://$(abspath $(OUT))/report.html

test: $(READY) ## Lint, types, import contracts, docs and tests, with one summary
	@$(MAKE) --no-print-directory -j 2 types lint docs-check contracts
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-fast: $(READY) ## The quick tests of a folder or file, nothing else (PATH=tests/deid)
	@OMP_NUM_THREADS=1 $(BIN)/pytest -x -m "not slow" $(TESTS)

test-slow: $(READY) ## The tests that take minutes
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m slow

coverage: $(READY) ## Branch coverage of the quick tests as a table (PATH=tests/deid for a part)
	@$(BIN)/coverage erase
	@OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n 2 --dist loadfile -m "not slow" $(TESTS); status=$$?; \
		$(BIN)/coverage combine --quiet && $(BIN)/coverage report && exit $$status

lint: $(READY) ## Style, spelling, structure and unused code
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet . \
		|| { echo "make lint: run 'make fix', it corrects what ruff can correct"; exit 1; }
	@$(BIN)/codespell $(SPELLED)
	@$(BIN)/python tools/check_structure.py
	@$(BIN)/python tools/check_unused.py

SPELLED := src tests docs examples tools benchmarks notebooks .github *.md

fix: $(READY) ## Correct style and format where ruff can
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet .

types: $(READY) ## Strict type check
	@$(BIN)/mypy --no-error-summary

contracts: $(READY) ## The layers and the imports they allow
	@$(BIN)/lint-imports --no-cache > .contracts.log 2>&1 || { cat .contracts.log; rm -f .contracts.log; exit 1; }
	@rm -f .contracts.log

docs: $(READY) ## Write the reference pages from the program
	@$(BIN)/python tools/build_docs.py

docs-check: $(READY) ## Fail when a reference page is stale or the site has a warning
	@$(BIN)/python tools/build_docs.py --check
	@$(BIN)/mkdocs build --strict --quiet

site: $(READY) ## Show the documentation site at http://127.0.0.1:8000 while you write
	@$(BIN)/mkdocs serve

bench: $(READY) ## The benchmarks behind docs/benchmarks.md
	@$(BIN)/python benchmarks/bench_bootstrap.py

bench-audit: $(READY) ## Bounds on attacks, and audits of simulated runs; writes its tables into docs/benchmarks.md (4 min)
	@$(BIN)/python benchmarks/bench_bounds.py --write docs/benchmarks.md
	@$(BIN)/python benchmarks/bench_canaries.py --write docs/benchmarks.md

bench-dp: $(READY) ## Time and memory of private training; writes its table into docs/benchmarks.md (15 min)
	@$(BIN)/python benchmarks/bench_dp.py --memory --write docs/benchmarks.md

bench-data: $(READY) ## Images per second of the data pipeline (DATA=prepared datasets); writes its tables into docs/benchmarks.md (5 min)
	@$(BIN)/python benchmarks/bench_data.py --data $(DATA) --write docs/benchmarks.md

bench-deid: $(READY) ## De-identification beside other tools (PEERS=environment with them); writes its table into docs/benchmarks.md (3 min)
	@$(BIN)/python benchmarks/bench_deid.py --peers $(PEERS) --write docs/benchmarks.md

bench-deid-text: $(READY) ## What cleaned descriptions keep and let through (PEERS=environment with its packages); writes its table into docs/benchmarks.md (2 min)
	@PYTHONPATH=$(PEERS) $(BIN)/python benchmarks/bench_deid_text.py --write docs/benchmarks.md

bench-federated: $(READY) ## Secure aggregation beside Flower's own; writes its tables into docs/benchmarks.md (7 min)
	@$(BIN)/python benchmarks/bench_federated.py --end-to-end --write docs/benchmarks.md

bench-burned-text: $(READY) ## Recall of text in pixels by kind, and its time; writes its table into docs/benchmarks.md (5 min)
	@$(BIN)/python benchmarks/bench_burned_text.py --pages 2 --write docs/benchmarks.md

utility: $(READY) ## Utility against epsilon on real images (DATA=prepared datasets, STUDY=results; 1 h); table and figure
	@$(BIN)/python benchmarks/utility.py --data $(DATA) --out $(STUDY)
	@$(BIN)/python benchmarks/utility.py --out $(STUDY) --write docs/results.md --figure docs/img/utility.png

build: $(READY) ## Build the wheel and the source archive into dist/
	@rm -rf dist
	@$(BIN)/python -m build

constraints: $(READY) ## Write constraints.txt from the environment
	@$(BIN)/python tools/write_constraints.py

clean: ## Remove the environment, caches and the demo's output
	@rm -rf $(VENV) demo-out build dist site .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
