# On a machine with Python 3.11 to 3.13, each command sets up what it needs:
#   make demo        the main job on an example (SLIDE=path for your own), in .venv-demo
#   make test        lint, types and tests, in .venv
#   make test-slow   the tests that take longer, in .venv
#   make test-base   the commands of the README where no extra is installed, in .venv-base
#   make docs        the manual, in site/
#   make dist        source archive and wheel, checked, in dist/
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN = $(VENV)/bin
SLIDE ?=
ARGS ?=
# Tests start hundreds of commands; unless what Python compiles is kept, each compiles it anew.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-slow test-base docs dist env clean

env: $(VENV)/.installed

$(VENV)/.installed: WHAT = --editable '.[hovernet,dev]'
.venv-demo/.installed: WHAT = --editable .
.venv-base/.installed: WHAT = $(wildcard dist/*.whl)
.venv-dist/.installed: WHAT = build hatchling twine

%/.installed: pyproject.toml tools/environment.sh
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 with venv was found; set PYTHON=/path/to/python"; exit 1; }
	tools/environment.sh $(PYTHON) $* $(WHAT)
	touch $@

demo: .venv-demo/.installed
	.venv-demo/bin/python examples/demo.py $(if $(SLIDE),"$(SLIDE)") $(ARGS)

test: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: env
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow

dist: .venv-dist/.installed
	rm -rf dist
	.venv-dist/bin/python -m build --no-isolation
	.venv-dist/bin/python -m twine check --strict dist/*
	.venv-dist/bin/python tools/check_wheel.py dist/*.whl

# What is installed is the wheel and nothing of the checkout: its own bundles, data and templates.
test-base: dist
	rm -rf .venv-base
	$(MAKE) .venv-base/.installed
	tools/test_base.sh $(abspath .venv-base/bin)

docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) .venv-demo .venv-base .venv-dist demo dist site
