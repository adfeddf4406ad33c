# Everything goes through .venv; the first target that needs it makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup quickstart sweep paper browser test slow-test faults lint bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## make .venv and install everything

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch first and by its exact version, so that a local CPU build of it can serve
	$(BIN)/pip install --quiet --constraint constraints.txt torch==$(shell sed -n 's/^torch==//p' constraints.txt)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: setup ## train BCQ on the built-in Pendulum data and compare it with the behaviour policy
	$(BIN)/python -m bcq_exp name=quickstart

sweep: setup ## 12 runs trained as one cohort, then their table: three minutes
	$(BIN)/python -m bcq_exp -m name=sweep algo.lmbda=0.5,1.0 algo.tau=0.005,0.02 'seed=range(0,3)' trainer.num_steps=5000 trainer.eval_every=2500
	$(BIN)/python -m bcq_exp.status multirun/sweep

BUDGET ?= tiny
paper: setup ## section 6 of the paper: BUDGET=tiny (five minutes, default), small (a night), full
	$(BIN)/python -m bcq_exp.paper budget=$(BUDGET)

test: setup browser lint ## lint, type-check and run the fast tests: within ten minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not faults"

browser: # Debian's Chromium, for the tests of the report page; without it they are skipped
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null \
		|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
			&& timeout 240 sh -c 'apt-get update -q && apt-get install -y -q chromium' >/dev/null 2>&1; } \
		|| echo "no Chromium here: the tests of the report page are skipped"

slow-test: setup browser ## the other tests: clusters, compilers, kills, whole sweeps (ten minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "slow and not faults"

faults: setup ## the long fault campaign (within the hour), and a table of what was tried and survived
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m faults

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup ## time training, acting and start-up beside Tianshou and d3rlpy (half an hour, idle machine)
	$(BIN)/python -m tests.bench.run

clean: ## remove .venv and caches; runs in multirun/ stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache docs/_build *.egg-info

.PHONY: docs
docs: setup ## the documentation as a site, docs/_build/index.html; a dead link fails
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build
