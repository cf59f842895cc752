# `make demo` and `make test` need only Python 3.11 and make: they set up .venv first.
# Set-up runs again only when pyproject.toml or constraints.txt has changed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
FRAMEWORKS := .venv-frameworks
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

.PHONY: demo gallery test test-frameworks lint bench torture

demo: $(READY)  ## train, record, and draw reports/mnist_3_vs_7.html
	$(BIN)/actlab recipe run mnist_3_vs_7 --overwrite

gallery: $(READY)  ## train every recipe, draw all its pages and reports/index.html, in some minutes
	$(BIN)/python reports/gallery.py

test: $(READY)  ## run every test; those that need Chromium are named where there is none
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-frameworks: $(FRAMEWORKS)/.ready  ## train with every framework that has an integration, in a venv of their own
	$(FRAMEWORKS)/bin/python -m pytest -n 2 --dist loadfile tests/integrations

lint: $(READY)  ## style, types, and which module may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## measure what recording costs
	$(BIN)/python benchmarks/overhead.py

torture: $(READY)  ## kill, starve and corrupt the store for about 25 minutes; counts go to docs/reliability.md
	$(BIN)/python -m tests.torture

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once, some minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch
	@$(PIP) --editable '.[torch,s3,recipes,dev]'
	@touch $@

$(FRAMEWORKS)/.ready: pyproject.toml constraints.txt
	@echo "Setting up $(FRAMEWORKS) (once, some minutes)"
	@$(PYTHON) -m venv $(FRAMEWORKS)
	@$(PIP:$(BIN)%=$(FRAMEWORKS)/bin%) torch
	@$(PIP:$(BIN)%=$(FRAMEWORKS)/bin%) --editable '.[torch,recipes,frameworks]'
	@touch $@
