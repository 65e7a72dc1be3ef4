# Every target works on a fresh clone; what needs the virtual environment makes it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 3
MINUTES ?= 15
SEED ?= 1
FIRESTORE_EMULATOR := @firestore-emulator/server@0.3.15

export UV_PYTHON_DOWNLOADS := never
# NLTK, which LlamaIndex uses, refuses to read files that are hard links.
export UV_LINK_MODE := copy
export UV_PROJECT_ENVIRONMENT := .venv

.PHONY: help setup check format test systems demo bench soak catalog lock clean

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready  ## Make .venv with everything in it, from python3 and pip alone

# uv comes by pip into a folder of its own, because a bare Debian has no venv module and refuses system-wide installs.
.venv/ready: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ragstore needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x build/uv/bin/uv || $(PYTHON) -m pip install --quiet --quiet --disable-pip-version-check --root-user-action ignore --target build/uv 'uv>=0.9'
	@test -x $(BIN)/python || build/uv/bin/uv venv --quiet --seed --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv
	@build/uv/bin/uv sync --quiet --frozen --extra all || \
	  { echo "the locked addresses cannot be reached, asking the configured package index instead" >&2; \
	    $(PYTHON) -m pip --python $(BIN)/python install --quiet --quiet --editable '.[all]'; }
	@touch .venv/ready

check: setup  ## Format, lint, types, import contracts, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/unit -q -n $(WORKERS)

format: setup  ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Both steps run, whatever the first one finds.
test: setup  ## All tests, on real servers: most of them beside others, a few alone
	failed=0; \
	  $(BIN)/pytest -n $(WORKERS) --dist worksteal --ignore tests/benchmarks --ignore tests/systems -m 'not alone' || failed=1; \
	  $(BIN)/pytest --ignore tests/benchmarks --ignore tests/systems -m alone || failed=1; \
	  exit $$failed

# The clients of other systems need 700 MB, and no other test needs them: they have an environment of their own.
build/systems/ready: .venv/ready
	@test -x build/systems/bin/python || build/uv/bin/uv venv --quiet --seed --python "$$($(BIN)/python -c 'import sys; print(sys.executable)')" build/systems
	@UV_PROJECT_ENVIRONMENT=build/systems build/uv/bin/uv sync --quiet --frozen --extra all --extra systems || \
	  { echo "the locked addresses cannot be reached, asking the configured package index instead" >&2; \
	    $(PYTHON) -m pip --python build/systems/bin/python install --quiet --quiet --editable '.[all,systems]'; }
	@touch build/systems/ready

systems: build/systems/ready  ## Adopt from other systems' real engines, with their clients: needs redis-server and node
	@test -d build/firestore/node_modules || npm install --silent --no-audit --no-fund --prefix build/firestore $(FIRESTORE_EMULATOR)
	build/systems/bin/pytest tests/systems -n $(WORKERS) --dist loadgroup -o cache_dir=build/systems/pytest_cache

demo: setup  ## Documents in, everything killed, everything restarted, same answers out
	$(BIN)/python stack/demo/demo.py

bench: setup  ## Measure against plain LlamaIndex and the raw limit: some minutes on a machine that does nothing else
	@mkdir -p stack/bench
	$(BIN)/python -m tests.benchmarks.compare --results stack/bench/results.json --picture stack/bench/results.svg --page stack/bench/results.md

soak: setup  ## Kill workers and servers at random for MINUTES=15 and check every answer
	$(BIN)/python -m tests.crash.soak --minutes $(MINUTES) --seed $(SEED)

catalog: setup  ## Rewrite tests/migration/expected_catalog.txt after a migration
	$(BIN)/python -m tests.migration.catalog

lock: setup  ## Renew uv.lock from pyproject.toml
	build/uv/bin/uv lock

clean:  ## Remove what was built, data of embedded servers excepted
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
