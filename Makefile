# What each target does: `make help`.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PROTOS := $(wildcard protos/loyalty/v1/*.proto)

.DEFAULT_GOAL := help
.PHONY: help run test lint protos faults lock clean

help: ## Show this list.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "laurel needs Python 3.11 or newer as '$(PYTHON)'; name another with 'make PYTHON=python3 ...'"; exit 1; }
	@echo "setting up $(VENV): about a minute, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

run: $(READY) ## Set up and run the local stack in the foreground; Ctrl-C stops it and keeps its data.
	@exec $(BIN)/laurel up

test: $(READY) ## Set up and run the tests against a real PostgreSQL and Redis.
	@$(BIN)/python -m pytest $(ARGS)

faults: $(READY) ## Kill servers and PostgreSQL under load, again and again; a few minutes.
	@$(BIN)/python -m pytest -m faults $(ARGS)

lint: $(READY) build/googleapis ## Check contracts, stubs, style, types and the direction of imports.
	@$(BIN)/python -m laurel.protos --check
	$(BIN)/buf lint protos
	$(BIN)/buf format --diff --exit-code protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

protos: $(READY) build/googleapis ## Generate the stubs in sdk/python from protos/.

lock: $(READY) ## Pin the newest dependencies that pyproject.toml allows, with hashes.
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --extra dev pyproject.toml -o requirements.lock

clean: ## Remove what was built; the local stack's data in .laurel stays.
	@rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
