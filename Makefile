# Needs make, bash and Python 3.11, 3.12 or 3.13; everything else goes into .venv.
PYTHON ?= python3.13 python3.12 python3.11 python3
NOTEBOOKS := $(patsubst %.py,%.ipynb,$(wildcard notebooks/*.py))
READY := .venv/.ready
# make setup CPU=1: the same pins without what only a GPU needs
GPU_ONLY := s/^(torch|torchvision)==([0-9.]+)/\1==\2+cpu/; /^(nvidia-|cuda-|triton)/d
PIP := .venv/bin/python -m pip install --disable-pip-version-check
WORKERS ?= 2
# xdist keeps a file's tests together, for they share what is made once, in the order of conftest.py; a thread each
PYTEST := OMP_NUM_THREADS=1 .venv/bin/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# of what pip prints, the large files as each begins to come
LARGE := awk '/ Downloading .*[MG]B\)/ {print "  " $$2, $$3, $$4; fflush()} /^Installing/ {print "  unpacking"; fflush()}'
SUPPORTED := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

SHELL := bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup notebooks lint test test-all test-slow bench book pdf report clean

help:  ## show this
	@sed -n 's/^\([a-z-]*\):.*## /  make \1: /p' Makefile

setup: $(READY)  ## make .venv with the pinned packages; PYTHON=... chooses its Python, CPU=1 a torch without CUDA

# A set-up that was interrupted starts afresh; one whose pins changed is brought up to date in place.
$(READY): requirements.txt pyproject.toml
	@test ! -e .venv/.unfinished || rm -rf .venv
	@mkdir -p .venv && touch .venv/.unfinished
	@test -x .venv/bin/python || for python in $(PYTHON); do \
	    "$$python" -c '$(SUPPORTED)' 2>/dev/null && exec "$$python" -m venv .venv; done; \
	  test -x .venv/bin/python || { echo 'None of "$(PYTHON)" is a Python 3.11, 3.12 or 3.13 with venv: install one' \
	    '(Debian: apt-get install python3-venv) or name it, make setup PYTHON=/path/to/python3.12' >&2; exit 1; }
	@echo 'Installing the pinned packages into .venv: $(if $(CPU),one gigabyte,some gigabytes) the first time, a few minutes'
	@sed -E '$(if $(CPU),$(GPU_ONLY))' requirements.txt >.venv/pins.txt
	@test -z '$(CPU)' || $(PIP) --quiet --no-deps $$(grep -E '^torch(vision)?==' .venv/pins.txt) || { \
	  echo 'This package index offers no torch and torchvision of these versions for the CPU alone ("+cpu"): name one that' \
	    'does in PIP_EXTRA_INDEX_URL, or a folder of wheels in PIP_FIND_LINKS, or leave out CPU=1' >&2; exit 1; }
	@set -o pipefail; $(PIP) -r .venv/pins.txt | $(LARGE)
	@$(PIP) --quiet --no-build-isolation --no-deps -e .
	@mv .venv/.unfinished $@

notebooks: $(NOTEBOOKS)  ## make notebooks/*.ipynb from notebooks/*.py

notebooks/%.ipynb: notebooks/%.py | $(READY)
	@echo '$@'
	@.venv/bin/jupytext --quiet --to ipynb --set-kernel python3 -o $@ $<

lint: $(READY)  ## style and types: what .ci/run begins with
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy

test: $(READY) notebooks  ## the quick tests, one notebook, one page: minutes on two cores
	@$(PYTEST) -m 'first or not (slow or long or browser or notebook or slurm or wheel or simulation)'

test-all: $(READY) notebooks  ## all tests but those that take minutes each
	@$(PYTEST) -m 'wheel or not (slow or simulation)'

test-slow: $(READY) notebooks  ## those, a quarter of an hour
	@$(PYTEST) -m '(slow or simulation) and not wheel'

bench: $(READY)  ## measure speed on this machine, some ten minutes; results/bench/ keeps it
	@.venv/bin/python -m benchmarks all

book: $(READY)  ## build the book from the results at hand
	@echo 'Building the book: pages whose results or code changed compute their numbers anew'
	@.venv/bin/jupyter-book build book/ >/dev/null
	@echo 'The book: $(CURDIR)/_build/html/index.html'

STORY := index method figures correlation selection classification reconciliation discussion
pdf: book  ## print the pages of the report to _build/pdf/, figures and all; needs chromium
	@command -v chromium >/dev/null || { echo 'make pdf needs chromium on the path' >&2; exit 1; }
	@mkdir -p _build/pdf
	@for page in $(STORY); do \
	    chromium --headless --no-sandbox --disable-gpu --no-pdf-header-footer --virtual-time-budget=10000 \
	        --print-to-pdf="_build/pdf/$$page.pdf" "_build/html/$$page.html" 2>/dev/null || exit; done
	@echo 'The report in print: $(CURDIR)/_build/pdf/'

report: $(READY) notebooks  ## run the study on this machine, build the book, say where it is
	@.venv/bin/python -m scripts.report

clean:  ## remove what was built; .venv, results/ and your own runs in book/runs/ stay
	@grep -l '"pt4al_page"' book/runs/*.ipynb 2>/dev/null | xargs -r rm -f
	@rm -rf _build build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis $(NOTEBOOKS)
