# The few commands a user types. Every target makes the environment first if it is missing.

.DEFAULT_GOAL := help
DEFENSE ?= at_fr_swa
PRESET ?=
SEEDS ?= 1
# Trainings at once, a process each.
JOBS ?= 1
DEVICE ?= auto
# Further arguments of the speed measurements, such as PERF='--suite eval --run runs/NAME'.
PERF ?=
# A name at a time: dash's `command -v` looks at its first alone.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell command -v $(name) 2>/dev/null)))

BIN := .venv/bin
READY := .venv/.ready
SEVEN := at_fr_swa at_fr at_swa pgd_at trades mart awp
OPTIONS := $(if $(PRESET),--preset $(PRESET)) --device $(DEVICE)

.PHONY: help setup lock bench bench-all leaderboard report test test-slow test-browser lint format perf parity verify doctor clean

help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: $(READY) ## environment in .venv from requirements.lock

# uv from the PATH if there is one, else from PyPI into the environment. torchattacks' wheel carries
# an old copy of robustbench, so robustbench is installed once more, after it. Bytecode is compiled now,
# since every command would otherwise start by compiling some thousand modules.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "frbench needs Python 3.11 or 3.12 on the PATH" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "frbench needs Python 3.11 or 3.12, not $$($(PYTHON) --version); set PYTHON=" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@set -e; uv=$$(command -v uv || echo $(BIN)/uv); \
		$$uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock; \
		$$uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes --reinstall-package robustbench --compile-bytecode -r requirements.lock; \
		$$uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
	@echo "ready: $(BIN)/frbench --help" >&2

lock: ## resolve requirements.lock anew from pyproject.toml and overrides.txt
	$(BIN)/uv pip compile --universal --generate-hashes --override overrides.txt --python-version 3.11 \
		--group dev --quiet pyproject.toml -o requirements.lock

bench: $(READY) ## train (or reuse) DEFENSE, attack it with every column, print the leaderboard
	@$(BIN)/frbench bench $(DEFENSE) --seeds $(SEEDS) --jobs $(JOBS) $(OPTIONS)

bench-all: $(READY) ## the same for all seven recipes
	@$(BIN)/frbench bench $(SEVEN) --seeds $(SEEDS) --jobs $(JOBS) $(OPTIONS)

leaderboard: $(READY) ## print the leaderboard and write it as Markdown, CSV, LaTeX and JSON
	@$(BIN)/frbench leaderboard --write

report: $(READY) ## one HTML file that shows everything: report.html
	@$(BIN)/frbench report -o report.html

verify: $(READY) ## is DEFENSE trained right here? three seeds against measured bands
	@$(BIN)/frbench verify $(DEFENSE) --device $(DEVICE)

test: $(READY) lint ## lint and the unit tests
	@$(BIN)/pytest -q -n 2

test-slow: $(READY) ## the tests that take minutes
	@$(BIN)/pytest -q -m slow

test-browser: $(READY) ## the report in a real browser
	@tools/install_browser.sh
	@$(BIN)/pytest -q -m browser tests/browser

lint: $(READY) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## let ruff rewrite the layout
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

perf: $(READY) ## measure speed, results in results/perf; PERF='--suite eval --run RUN' says which
	@$(BIN)/python -m tools.perf --device $(DEVICE) $(PERF)

parity: $(READY) ## our verdicts against plain library calls, image by image
	@$(BIN)/python -m tools.parity

doctor: $(READY) ## what this machine has and what is missing
	@$(BIN)/frbench doctor

clean: ## remove caches; keeps runs, results and the environment
	@rm -rf .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
