# Needs make and Python 3.11, 3.12 or 3.13; everything else goes into .venv.
PYTHON ?= python3.13 python3.12 python3.11 python3
NOTEBOOKS := $(patsubst %.py,%.ipynb,$(wildcard notebooks/*.py))
READY := .venv/.ready
SUPPORTED := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

export PATH := $(CURDIR)/.venv/bin:$(PATH)
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup notebooks test bench book report clean

help:  ## show this
	@sed -n 's/^\([a-z]*\):.*## /  make \1: /p' Makefile

setup: $(READY)  ## make .venv with the pinned packages; PYTHON=... chooses the Python of a new one

# A set-up that was interrupted starts afresh; one whose pins changed is brought up to date in place.
$(READY): requirements.txt pyproject.toml
	@test ! -e .venv/.unfinished || rm -rf .venv
	@mkdir -p .venv && touch .venv/.unfinished
	@test -x .venv/bin/python || for python in $(PYTHON); do \
	    "$$python" -c '$(SUPPORTED)' 2>/dev/null && exec "$$python" -m venv .venv; done; \
	  test -x .venv/bin/python || { echo 'None of "$(PYTHON)" is a Python 3.11, 3.12 or 3.13 with venv: install one' \
	    '(Debian: apt-get install python3-venv) or name it, make setup PYTHON=/path/to/python3.12' >&2; exit 1; }
	@echo 'Installing the pinned packages into .venv: some gigabytes the first time, a few minutes'
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@mv .venv/.unfinished $@

notebooks: $(NOTEBOOKS)  ## make notebooks/*.ipynb from notebooks/*.py

notebooks/%.ipynb: notebooks/%.py | $(READY)
	@echo '$@'
	@.venv/bin/jupytext --quiet --to ipynb --set-kernel python3 -o $@ $<

test: $(READY) notebooks  ## run the tests
	@.venv/bin/pytest

bench: $(READY)  ## measure speed on this machine, some ten minutes; results/bench/ keeps it
	@.venv/bin/python -m benchmarks all

book: $(READY)  ## build the book from the results at hand
	@echo 'Building the book: pages whose results or code changed compute their numbers anew'
	@.venv/bin/jupyter-book build book/ >/dev/null
	@echo 'The book: $(CURDIR)/_build/html/index.html'

report: $(READY) notebooks  ## run the study on this machine, build the book, say where it is
	@.venv/bin/pt4al report

clean:  ## remove what was built; .venv, results/ and your own runs in book/runs/ stay
	@grep -l '"pt4al_page"' book/runs/*.ipynb 2>/dev/null | xargs -r rm -f
	@rm -rf _build build *.egg-info .pytest_cache .hypothesis $(NOTEBOOKS)
