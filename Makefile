# Everything here needs only make and Python >= 3.11; the rest is installed into .venv.
# Another interpreter: make test PYTHON=python3.12 (run `make clean-venv` first when
# .venv already stands on a different one).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint format docs clean clean-venv

help:  ## Show these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: $(PYTHON) not found; install Python >= 3.11 or say make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); physnet-ase needs Python >= 3.11," \
	       "say make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Stamps: an environment is installed once, and again when what it depends on changes.
$(VENV)/.installed-train: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[train]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[train,dev]'
	@touch $@ $(VENV)/.installed-train

venv: $(VENV)/.installed-dev  ## Create .venv with everything for development

demo: $(VENV)/.installed-train  ## Train on the shipped data, then relaxation and dynamics with the result
	$(BIN)/python -m physnet_training.demo --out demo

test: $(VENV)/.installed-dev  ## Run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev  ## Check format, lint rules, types, layers and dependencies
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

format: $(VENV)/.installed-dev  ## Format the code and apply safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev  ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

clean:  ## Remove what the targets made, except .venv
	rm -rf build dist site demo .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis

clean-venv:  ## Remove .venv
	rm -rf $(VENV)
