# Two commands for newcomers: `make quickstart` and `make test`. Both set everything up first (Python >= 3.11).

# Any of these that is new enough; `make PYTHON=/path/to/python3.12 setup` to choose another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# More arguments for pip, e.g. PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" for the small
# CPU-only torch on Linux.
PIP_ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.ready
LMMS := .venv-lmms-eval
NEED_PYTHON = test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 found; install one or use 'make PYTHON=/path/to/python ...'"; exit 2; }

.PHONY: help setup quickstart demo test test-slow test-browser fuzz test-lmms-eval check format nano claims clean

help:
	@echo "make quickstart  set up, then ask the bundled model about a 4K picture and show where it looked"
	@echo "make demo        set up, then talk about 4K pictures in the browser"
	@echo "make test        set up, then run the default tests (CPU, no network, no checkpoints)"
	@echo "make test-slow   the end-to-end tests that the default leaves out"
	@echo "make test-browser  the demo in a real Chromium, which is installed when it is missing (Debian, Ubuntu)"
	@echo "make fuzz        damaged checkpoints and data, 8,100 cases: only one-line errors may come out"
	@echo "make test-lmms-eval  run the real lmms-eval, in an environment of its own ($(LMMS))"
	@echo "make check       format, lint, types, import contracts, wheel contents"
	@echo "make format      rewrite the files the way 'make check' wants them"
	@echo "make nano        train the bundled model again (2 CPU cores, under two hours)"
	@echo "make claims      measure the paper's claims on small models, write docs/claims.md (2 cores, see --plan)"
	@echo "make setup       only the environment, in $(VENV)"
	@echo "make clean       remove $(VENV), $(LMMS) and everything that was built"

setup: $(STAMP)

# Runs again only when the dependencies change.
$(STAMP): setup.py constraints.txt
	@$(NEED_PYTHON)
	@echo "Setting up $(VENV) with $(PYTHON): once, a few minutes, mostly downloads (torch, transformers, deepspeed)."
	@$(PYTHON) -m venv $(VENV) || { echo "error: '$(PYTHON) -m venv' failed; on Debian or Ubuntu: apt install python3-venv"; exit 2; }
	$(PY) -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[train,eval,demo,serve,dev]"
	@touch $(STAMP)

quickstart: setup
	@$(VENV)/bin/vila-hd quickstart

demo: setup
	@$(PY) -m demo

test: setup
	$(PY) -m pytest

test-browser: setup
	@command -v chromium > /dev/null || apt-get install -y chromium || { echo "error: install Chromium first"; exit 2; }
	$(PY) -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[browser]"
	$(PY) -m pytest -m browser

test-slow: setup
	$(PY) -m pytest -m slow

fuzz: setup
	$(PY) -m pytest -m slow tests/llava_compat/test_hostile.py tests/llava_compat/data/test_fuzz.py

# lmms-eval has pins of its own (PyAV, wandb) that do not go with constraints.txt.
$(LMMS)/.ready: setup.py .ci/lmms-eval.txt
	@$(NEED_PYTHON)
	$(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) -r .ci/lmms-eval.txt
	$(LMMS)/bin/python -m pip install --disable-pip-version-check --no-deps lmms-eval==0.7.3
	$(LMMS)/bin/python -m pip install --disable-pip-version-check --no-build-isolation -e .
	@touch $@

test-lmms-eval: $(LMMS)/.ready
	$(LMMS)/bin/python -m pytest -m slow tests/llava_compat/test_lmms_eval_manifest.py

check: setup
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(PY) .ci/check_wheel.py

format: setup
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

nano: setup
	$(PY) -m train recipe configs/train/nano.yaml --publish runs/nano/published
	@echo "Ask it: $(VENV)/bin/vila-hd quickstart --model runs/nano/published"

claims: setup
	$(PY) -m eval claims

clean:
	rm -rf $(VENV) $(LMMS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
