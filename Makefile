# Each goal sets up .venv by itself, once, and then does its one job.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test lint format clean

demo: $(INSTALLED)  ## The whole way once, into demo/.
	python -m tools.demo --output_dir=demo

test: $(INSTALLED)  ## All tests.
	python -m pytest -n auto --dist loadfile

lint: $(INSTALLED)  ## Formatting, lint and types.
	ruff format --check .
	ruff check .
	pyright

format: $(INSTALLED)
	ruff format .
	ruff check --fix .

clean:  ## Removes what the goals above made.
	rm -rf .venv demo

# The stamp is written last: an interrupted installation is done again.
# Pinned through the environment, so that the build backend is pinned too.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --editable '.[dev]'
	touch $@
