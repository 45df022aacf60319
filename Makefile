# The project's jobs. Each target does its own set-up; `make help` lists them.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
PEERS ?= $(VENV)/peers
GROWTH_PEERS ?= $(VENV)/growth-peers
DATA ?= data
SCALE ?= cpu
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
WHEEL := dist/meristem-$(VERSION)-py3-none-any.whl
SOURCES := $(shell find src -type f -not -path '*/__pycache__/*')
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest
WORKERS ?= 2
STUDIES ?= stability continual expansion bottleneck tabular reinforcement exchange language grid

.PHONY: help demo test heavy check format docs zoo families axes bench quality pruning studies results figure clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/ready-demo ## fixed, grown and pruned nets on real digits, and the report runs/demo/report.html
	$(VENV)/bin/meristem demo

test: $(VENV)/ready-test ## the tests, against the installed wheel
	$(PYTEST) -n $(WORKERS) --dist worksteal -m "not heavy"

heavy: $(VENV)/ready-test ## the tests that take longest, which `make test` leaves out
	$(PYTEST) -n $(WORKERS) --dist worksteal -m heavy

check: $(VENV)/ready-dev docs ## format, lint, types, one-way imports, docs
	$(VENV)/bin/ruff format --check src tests benchmarks docs examples
	$(VENV)/bin/ruff check src tests benchmarks docs examples
	$(VENV)/bin/pyright
	PYTHONPATH=src $(VENV)/bin/lint-imports

format: $(VENV)/ready-dev ## rewrite the sources in the project's format
	$(VENV)/bin/ruff format src tests benchmarks docs examples
	$(VENV)/bin/ruff check --fix src tests benchmarks docs examples

docs: $(VENV)/ready-dev ## the documentation, in docs/_build/index.html
	$(VENV)/bin/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build

zoo: $(VENV)/ready-test ## regenerate the report on what can be edited in which model
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m tests.zoo.report

families: $(VENV)/ready-test ## judge the smallest model of every family of timm; takes half an hour
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m tests.zoo.families

axes: $(VENV)/ready-test ## judge every axis of every model of the zoo on its own; takes hours
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m tests.zoo.every_axis

bench: $(VENV)/ready-test $(PEERS)/ready $(GROWTH_PEERS)/ready ## all benchmarks, side by side with the peers, into benchmarks/results
	for each in trace recording job commit controller diagnose masks growth tables; do \
	    OMP_NUM_THREADS=1 MERISTEM_PEER_PYTHON=$(PEERS)/bin/python \
	    MERISTEM_GROWTH_PEER_PYTHON=$(GROWTH_PEERS)/bin/python $(VENV)/bin/python -m benchmarks.$$each || exit 1; \
	done

quality: $(VENV)/ready-test ## all growth methods under equal conditions; DATA=folder with the data sets, SCALE=cpu or full
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.growth_quality --data-dir $(DATA) --scale $(SCALE) --jobs $(WORKERS)
	$(VENV)/bin/python -m benchmarks.growth_quality --scale $(SCALE) --summary
	$(VENV)/bin/python -m benchmarks.tables

pruning: $(VENV)/ready-test $(PEERS)/ready ## pruning side by side with Torch-Pruning, trained nets and the zoo; DATA=folder with cifar10, SCALE=cpu or full
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.pruning --data-dir $(DATA) --scale $(SCALE) --peer-python $(PEERS)/bin/python
	$(VENV)/bin/python -m benchmarks.pruning --scale $(SCALE) --summary
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.zoo --peer-python $(PEERS)/bin/python
	$(VENV)/bin/python -m benchmarks.tables

studies: $(VENV)/ready-test ## all studies; DATA=folder with the data sets, SCALE=smoke, cpu or full
	for each in $(STUDIES); do \
	    $(VENV)/bin/meristem study $$each --scale $(SCALE) --data-dir $(DATA) --jobs $(WORKERS) --out runs/$$each-$(SCALE) || exit 1; \
	done

results: $(VENV)/ready-test ## the pages on what studies found, from benchmarks/results/studies
	PYTHONPATH=src $(VENV)/bin/python docs/study_pages.py
	PYTHONPATH=src $(VENV)/bin/python docs/leaderboard.py

figure: demo ## the figure of the README, from the demo's results
	$(VENV)/bin/python docs/figure.py

clean: ## remove what was built; runs/ and the virtual environment stay
	rm -rf dist docs/_build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	rm -f $(VENV)/ready-*

# --- set-up: every stage is stamped, so that it is repeated only when what it depends on has changed -------------------

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/ready-build: constraints.txt | $(VENV)/bin/python
	$(INSTALL) build hatchling
	touch $@

# Without isolation: an isolated build would fetch its own, unpinned tools.
$(WHEEL): $(SOURCES) pyproject.toml README.md LICENSE $(VENV)/ready-build
	rm -f dist/meristem-*.whl
	$(VENV)/bin/python -m build --wheel --no-isolation --outdir dist . > /dev/null
	touch $@

$(VENV)/ready-demo: $(WHEEL)
	@echo "installing what the demo needs (once; some minutes)"
	$(INSTALL) "$(WHEEL)[demo]"
	$(INSTALL) --force-reinstall --no-deps $(WHEEL)
	touch $@

# torchvision and timm ask for a torch of their own choice: they are installed without their dependencies.
$(VENV)/ready-test: $(WHEEL)
	@echo "installing what the tests need (once; some minutes)"
	$(INSTALL) "$(WHEEL)[test]"
	$(INSTALL) --force-reinstall --no-deps $(WHEEL)
	$(INSTALL) --no-deps timm torchvision
	touch $@

# torch first, from its pin; the rest of a peer's requirements is its own business.
$(PEERS)/ready: benchmarks/peers.txt constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt torch numpy pillow transformers
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt --no-deps -r benchmarks/peers.txt torchvision
	touch $@

$(GROWTH_PEERS)/ready: benchmarks/growth_peers.txt constraints.txt
	$(PYTHON) -m venv $(GROWTH_PEERS)
	$(GROWTH_PEERS)/bin/python -m pip install --quiet --constraint constraints.txt -r benchmarks/growth_peers.txt
	touch $@

$(VENV)/ready-dev: $(VENV)/ready-test
	$(INSTALL) "$(WHEEL)[dev]"
	touch $@
