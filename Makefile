# Two commands set everything up on a machine with Python 3.11 to 3.13:
#   make demo    environment, then the main job on an example (SLIDE=path for your own)
#   make test    environment, then lint, types and tests
#   make docs    environment, then the manual, in site/
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN = $(VENV)/bin
SLIDE ?=
ARGS ?=

.PHONY: demo test docs env clean

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 with venv was found; set PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[hovernet,dev]"
	touch $@

demo: env
	$(BIN)/python examples/demo.py $(if $(SLIDE),"$(SLIDE)") $(ARGS)

test: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto

docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) demo site
