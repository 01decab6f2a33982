# What each target does: `make help`. Needs Python 3.11 or newer and git, nothing else.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Tests wait for disks and processes a third of their time, so there is one more than there are cores.
WORKERS := $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 4 ? cores + 1 : 4)))
# Errors only: what pip warns of does not concern our own environment.
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 $(BIN)/python -m pip --quiet --quiet

.DEFAULT_GOAL := help
.PHONY: help run test lint faults toolchains bench protos clients lock clean

help: ## Show this list.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# The lock is complete, so nothing is resolved: asked to, pip takes the newest of what is wanted with an extra, whatever
# is pinned, and then misses its hash.
# PYTHON names the interpreter; without it the first of the usual names that is new enough.
$(READY): requirements.lock pyproject.toml
	@fits() { command -v "$$1" >/dev/null && "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	python=; for name in $(or $(PYTHON),python3.11 python3 python3.12 python3.13); do \
	  if fits "$$name"; then python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "Laurel needs Python 3.11 or newer; name it with: make PYTHON=/path/to/python3 ..." >&2; exit 1; fi; \
	if [ -x $(BIN)/pip ]; then echo "bringing $(VENV) up to date"; else \
	  echo "setting up $(VENV) with $$($$python --version): about a minute, once"; \
	  "$$python" -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "$$python can't make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	fi
	@$(PIP) install --require-hashes --no-deps -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

run: $(READY) ## Set up and run the local stack in the foreground; Ctrl-C stops it and keeps its data.
	@exec $(BIN)/laurel up $(ARGS)

test: $(READY) ## Set up and run the tests against a real PostgreSQL and Redis.
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

faults: $(READY) ## Kill servers, workers and PostgreSQL under load, again and again; ten minutes or so.
	@$(BIN)/python -m pytest -m faults $(ARGS)

toolchains: $(READY) ## Test what needs Go, and a fresh copy as another user; what is absent is skipped and named.
	@$(BIN)/python -m pytest -m toolchains -rs $(ARGS)

bench: $(READY) ## Measure Laurel against what its work costs anyway; needs Go. ARGS="--quick", ARGS=--help.
	@$(BIN)/python -m bench $(ARGS)

# The first also compares with the contract as last generated: nothing that callers use may go.
lint: $(READY) ## Check contracts, stubs, style, types and the direction of imports.
	$(BIN)/python -m laurel.protos --check
	$(BIN)/buf lint protos
	$(BIN)/buf format --diff --exit-code protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

protos: $(READY) ## Generate stubs and baseline from protos/; ARGS=--allow-breaking for a deliberate break.
	@$(BIN)/buf format --write protos
	@$(BIN)/python -m laurel.protos $(ARGS)

clients: $(READY) ## Generate clients for Python, TypeScript, Go and Java as buf.gen.yaml says; ARGS="go java" for some.
	@$(BIN)/python -m laurel.clients $(ARGS)

lock: $(READY) ## Pin the newest dependencies that pyproject.toml allows, with hashes.
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate --extra dev pyproject.toml -o requirements.lock

clean: ## Remove what was built; the local stack's data in .laurel stays.
	@rm -rf $(VENV) build .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis
