# Each target that runs something first installs what it needs into .venv.

PYTHON ?= python3
# Of goals for developers; `dev` includes what the other goals need.
EXTRAS ?= dev
PIPELINE := build,train
BIN := .venv/bin
INSTALLED := .venv/.installed_
export PATH := $(CURDIR)/$(BIN):$(PATH)

# One installation at a time; `%` below means names of extras alone.
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules
.PHONY: help drive demo two_rounds dream_rounds test lint format figures clean

help:  ## Lists the goals; the default.
	@awk -F ':.*  ## ' '/^[a-z_]+:.*  ## / { printf "  make %-12s %s\n", $$1, $$2 }' \
	  $(firstword $(MAKEFILE_LIST))

drive: $(INSTALLED)core  ## Films the pretrained agent, into drive/.
	python -m tools.drive --output_dir=drive

demo: $(INSTALLED)$(PIPELINE)  ## Runs the whole pipeline once, into demo/.
	python -m tools.demo --output_dir=demo

two_rounds: $(INSTALLED)$(PIPELINE)  ## Makes the agent from nothing, into two_rounds/.
	python -m tools.two_rounds --output_dir=two_rounds

dream_rounds: $(INSTALLED)$(PIPELINE)  ## Makes an agent in dreams, into dream_rounds/.
	python -m tools.dream_rounds --output_dir=dream_rounds

test: $(INSTALLED)$(EXTRAS)  ## Runs all tests.
	python -m pytest -n auto --dist worksteal --durations=20

lint: $(INSTALLED)$(EXTRAS)  ## Checks formatting, lint and types.
	ruff format --check .
	ruff check .
	pyright

format: $(INSTALLED)$(EXTRAS)  ## Fixes formatting and lint.
	ruff format .
	ruff check --fix .

figures: $(INSTALLED)$(EXTRAS)  ## Makes the animation and tables of the documents anew.
	jupyter execute --inplace --kernel_name=python3 docs/tour.ipynb
	python -m tools.figures

clean:  ## Removes .venv; what was learnt and driven stays.
	rm -rf .venv

# A stamp for each choice of extras that is installed, written last, so that an
# interrupted installation is repeated. PIP_CONSTRAINT, unlike --constraint,
# also pins the build backend.
$(INSTALLED)%: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --editable '.$(patsubst %,[%],$(filter-out core,$*))'
	touch $@ $(INSTALLED)core \
	  $(if $(findstring dev,$*),$(INSTALLED)$(PIPELINE))
