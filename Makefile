# Every target sets up .venv by itself, once, and again only when the lock changes.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_LINK_MODE ?= copy
PYTHON ?= python3.11
BIN := .venv/bin
RECIPE ?= flows/recipes/fashion.yaml

# A .venv that was set up but no longer starts is set up again: its packages were removed, or its Python was.
ifneq ($(wildcard .venv/ready),)
  ifneq ($(shell $(BIN)/python -c 'import flows.cli' 2> /dev/null && echo whole),whole)
    $(shell rm -f .venv/ready)
  endif
endif

.PHONY: help run up serve test check soak bench bench-serving bench-quality bench-gpu clean hooks lock

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

run: .venv/ready ## real pictures through the whole line, to a served sample
	@$(BIN)/atelier run $(RECIPE)

up: .venv/ready ## MLflow, Prefect, the controller and the endpoints, until Ctrl-C
	@$(BIN)/atelier up

serve: .venv/ready ## serve the champions of this workspace
	@$(BIN)/atelier serve

test: .venv/ready ## all tests
	@$(BIN)/pytest tests -m "not soak"

check: .venv/ready ## ruff, mypy, import contracts and the quick tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/pytest tests -m "not slow and not soak" -n 2 --dist loadfile

soak: .venv/ready ## the long forms of the tests: kills, races, floods; an hour or so
	@$(BIN)/pytest tests -m soak -s

bench: .venv/ready ## the figures of the README, measured here
	@$(BIN)/python -m tests.benchmarks

bench-serving: .venv/ready ## those of serving alone, beside a hand-written server and LitServe
	@$(BIN)/python -m tests.benchmarks serving

bench-quality: .venv/ready ## what each image family reaches for what it costs; what was measured is kept
	@$(BIN)/python -m tests.benchmarks.quality

bench-gpu: ## what each image family trains and draws on a GPU; needs torch, safetensors, pydantic and accelerate alone
	@$(if $(wildcard .venv/ready),$(BIN)/python,$(PYTHON)) -m tests.benchmarks.gpu $(if $(OUT),--out $(OUT))

clean: ## remove the workspace, its models, ledger and keys included; data/ and .venv stay
	rm -rf .atelier build dist *.egg-info

hooks: .venv/ready ## run ruff, mypy and the import contracts before each commit
	@$(BIN)/pre-commit install

lock: .venv/ready ## resolve pyproject.toml again into requirements.lock
	@$(BIN)/uv pip compile -q pyproject.toml --extra dev --no-emit-find-links --no-emit-index-url --no-annotate \
	  --no-header -c requirements.lock -o requirements.lock.new
	@sed 's/+cpu$$//' requirements.lock.new > requirements.lock && rm requirements.lock.new

.venv/ready: requirements.lock
	@command -v $(PYTHON) > /dev/null || { echo "Atelier needs Python 3.11 with venv: install it, or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up .venv, once: about 270 packages, one to four minutes."
	@rm -f .venv/ready
	@$(PYTHON) -m venv --clear .venv
	@echo "  1/3 the installer"
	@$(BIN)/python -m pip install -q "$$(grep '^uv==' requirements.lock)"
	@echo "  2/3 the packages of requirements.lock, and their byte code"
	@$(BIN)/uv pip install -q --compile-bytecode -p $(BIN)/python -r requirements.lock
	@echo "  3/3 Atelier itself"
	@$(BIN)/uv pip install -q --no-deps -p $(BIN)/python -e .
	@touch .venv/ready
