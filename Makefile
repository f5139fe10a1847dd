# Each target that runs something sets up .venv first, if it is missing.

PYTHON ?= python3
EXTRAS ?= dev
BIN := .venv/bin
INSTALLED := .venv/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help drive demo two_rounds dream_rounds test lint format figures clean

help:  ## Lists the goals; the default.
	@awk -F ':.*  ## ' '/^[a-z_]+:.*  ## / { printf "  make %-12s %s\n", $$1, $$2 }' \
	  $(firstword $(MAKEFILE_LIST))

drive: $(INSTALLED)  ## Films the pretrained agent, into drive/.
	python -m tools.drive --output_dir=drive

demo: $(INSTALLED)  ## Runs the whole pipeline once, into demo/.
	python -m tools.demo --output_dir=demo

two_rounds: $(INSTALLED)  ## Makes the agent from nothing, into two_rounds/.
	python -m tools.two_rounds --output_dir=two_rounds

dream_rounds: $(INSTALLED)  ## Makes an agent in dreams, into dream_rounds/.
	python -m tools.dream_rounds --output_dir=dream_rounds

test: $(INSTALLED)  ## Runs all tests.
	python -m pytest -n auto --dist worksteal --durations=20

lint: $(INSTALLED)  ## Checks formatting, lint and types.
	ruff format --check .
	ruff check .
	pyright

format: $(INSTALLED)  ## Fixes formatting and lint.
	ruff format .
	ruff check --fix .

figures: $(INSTALLED)  ## Makes the animation and tables of the documents anew.
	jupyter execute --inplace --kernel_name=python3 docs/tour.ipynb
	python -m tools.figures

clean:  ## Removes .venv; what was learnt and driven stays.
	rm -rf .venv

# The stamp is written last, so that an interrupted installation is repeated.
# PIP_CONSTRAINT, unlike --constraint, also pins the build backend.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --editable '.[$(EXTRAS)]'
	touch $@
