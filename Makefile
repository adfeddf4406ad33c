# Everything goes through .venv; the first target that needs it makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGE := $(VENV)/.installed
PAPER := $(VENV)/.installed-paper
DEV := $(VENV)/.installed-dev
PIP := $(BIN)/pip install --quiet --constraint constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -rs

.DEFAULT_GOAL := help
.PHONY: help setup quickstart sweep example paper test fast-test slow-test faults lowest-test lint browser bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV) ## make .venv and install everything, for development

$(PACKAGE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch first and by its exact version, so that a local CPU build of it can serve
	$(PIP) torch==$(shell sed -n 's/^torch==//p' constraints.txt)
	$(PIP) --editable .
	touch $@

# with an extra of pyproject.toml
$(PACKAGE)-%: $(PACKAGE)
	$(PIP) --editable '.[$*]'
	touch $@

quickstart: $(PACKAGE) ## train BCQ on the built-in Pendulum data and write a report of the run
	$(BIN)/bcq_exp train name=quickstart
	$(BIN)/bcq_exp compare multirun/quickstart

sweep: $(PACKAGE) ## train 12 runs together and compare them (three minutes)
	$(BIN)/bcq_exp train -m name=sweep algo.lmbda=0.5,1.0 algo.tau=0.005,0.02 'seed=range(0,3)' trainer.num_steps=5000 trainer.eval_every=2500
	$(BIN)/bcq_exp compare multirun/sweep

example: $(PACKAGE)-export ## from a table of logged data to a report and an exported policy (three minutes)
	$(BIN)/bcq_exp train -m --config-dir examples/sepsis/conf experiment=sepsis name=sepsis algo=bc,discrete_bcq
	$(BIN)/bcq_exp train -m --config-dir examples/sepsis/conf experiment=sepsis name=sepsis algo.threshold=0.03,0.1
	$(BIN)/bcq_exp select multirun/sepsis num_steps=4000 epsilon=0.3 'return_range=[-1,1]'
	$(BIN)/bcq_exp compare multirun/sepsis
	$(BIN)/python examples/sepsis/truth.py multirun/sepsis
	$(BIN)/bcq_exp export "$$(sed -n 2p multirun/sepsis/ope/policies.csv | cut -d, -f2)" # the first

BUDGET ?= tiny
paper: $(PAPER) ## section 6 of the paper: BUDGET=tiny (default, five minutes), small, medium, full
	$(BIN)/bcq_exp paper budget=$(BUDGET)

test: lint fast-test ## lint, check types and run the fast tests (ten minutes on two cores)

fast-test: $(DEV) ## the fast tests
	$(PYTEST) -m "not slow and not faults"

slow-test: $(DEV) ## the other tests: clusters, compilers, kills, whole sweeps (ten minutes)
	$(PYTEST) -m "slow and not faults"

faults: $(DEV) ## the long fault campaign (within the hour), with a table of the faults
	$(PYTEST) -m faults

LOWEST := .venv-lowest/bin
lowest-test: ## the fast tests with the lowest versions of packages that pyproject.toml allows
	$(PYTHON) -m venv .venv-lowest
	$(LOWEST)/pip install --quiet uv
	$(LOWEST)/uv pip install --quiet --python .venv-lowest --resolution lowest-direct --editable '.[dev]'
	OMP_NUM_THREADS=1 $(LOWEST)/python -m pytest -n 2 -rs -m "not slow and not faults"

lint: $(DEV) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

browser: ## install Chromium, without which the tests of the report page are skipped (Debian, as root)
	command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| { apt-get update -q && apt-get install -y -q chromium; }

bench: $(DEV) ## time training, acting and start-up against Tianshou and d3rlpy (half an hour, idle machine)
	$(BIN)/python -m tests.bench.run

clean: ## remove .venv and caches; runs in multirun/ stay
	rm -rf $(VENV) .venv-lowest .mypy_cache .pytest_cache .ruff_cache docs/_build *.egg-info

.PHONY: docs
docs: setup ## the documentation as a site, docs/_build/index.html; a dead link fails
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build
