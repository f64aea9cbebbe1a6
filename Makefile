# make book    build the book into _build/html
# make test    everything: lint, types, unit tests, chapters, built pages in a browser
# make serve   build, then open http://127.0.0.1:8000
# make check   the fast part of `make test`, for every commit
# make format  let ruff rewrite what it can
# make lock    write requirements.lock from the current environment
# make clean   remove what was built (not .venv); `make distclean` removes .venv too
#
# All commands run in .venv, made from requirements.lock the first time.
# On Linux, plain PyPI serves the CUDA build of torch (several GB). For the CPU build (200 MB):
#     make book TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
PORT ?= 8000
WORKERS ?= 2

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help book test serve check lint format unit chapters pages lock clean distclean

PY := $(VENV)/bin/python
STAMP := $(VENV)/.small-transformers
NOTEBOOKS := $(wildcard book/*.ipynb)
QUIET := --disable-pip-version-check --quiet
SOURCES := mi_lab tests book/build.py book/execute.py book/_ext $(wildcard benchmarks)

# One thread: for models this small a second one only waits for the first.
export OMP_NUM_THREADS := 1
export PYTHONPATH := $(CURDIR)

help:
	@sed -n 's/^# make/make/p' Makefile

$(STAMP): requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "error: '$(PYTHON)' was not found. Install Python 3.11 or later, or name it: make book PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or later is needed; '$(PYTHON)' is $$($(PYTHON) -c 'import platform; print(platform.python_version())'). Name another: make book PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: '$(PYTHON)' has no venv module. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing the packages of requirements.lock into $(VENV) (a few minutes, once)"
	if [ -n "$(TORCH_INDEX)" ]; then $(PY) -m pip install $(QUIET) --index-url "$(TORCH_INDEX)" "$$(grep '^torch==' requirements.lock)"; fi
	$(PY) -m pip install $(QUIET) -r requirements.lock
	touch $@

book: $(STAMP)
	$(PY) book/build.py

test: lint book unit chapters pages

check: lint
	$(PY) -m pytest tests mi_lab --doctest-modules -q -n $(WORKERS) -m "not slow and not browser"

lint: $(STAMP)
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m ruff format --check $(SOURCES)
	$(PY) -m pyright --pythonpath $(PY)

format: $(STAMP)
	$(PY) -m ruff check --fix $(SOURCES)
	$(PY) -m ruff format $(SOURCES)
	$(PY) -m nbstripout $(NOTEBOOKS)

# The rest of `make test`, one by one. The coverage threshold is in pyproject.toml.
unit: $(STAMP)
	$(PY) -m pytest tests mi_lab --doctest-modules -n $(WORKERS) -m "not browser" --cov --cov-report=term --durations=15

chapters: $(STAMP)
	$(if $(NOTEBOOKS),$(PY) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=300 --timeout=900 -W default -n $(WORKERS) --dist loadfile -p no:cacheprovider $(NOTEBOOKS),@echo "no notebooks yet")

pages: $(STAMP)
	$(PY) -m pytest -m browser -n $(WORKERS) -p no:cacheprovider tests/book
	$(PY) -m pytest -m browser -n $(WORKERS) -p no:cacheprovider tests/live  # by itself: one Playwright a process

serve: book
	@echo "http://127.0.0.1:$(PORT)  (Ctrl-C ends)"
	$(PY) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

lock: $(STAMP)
	{ sed -n '/^#/p' requirements.lock; $(PY) -m pip freeze --exclude-editable | grep -v '^mi[-_]lab' | sed 's/+cpu//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf _build .pytest_cache .ruff_cache .coverage* build *.egg-info
	find mi_lab tests book benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	rm -rf .venv
