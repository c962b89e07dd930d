.DEFAULT_GOAL := help
.PHONY: help setup train test check format bench bench-zoo bench-remedies bench-cured clean
PYTHON ?= python3
BIN := .venv/bin

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: .venv/.stamp ## .venv with the tested versions of constraints.txt, the package editable

.venv/.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

train: setup ## the embedded default, to a printed verdict: at most 5 minutes on 2 cores
	$(BIN)/vaecollapse-train

test: setup ## the whole suite
	$(BIN)/pytest

check: setup ## style, types and who may import whom, without running anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup ## rewrites the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## the figures of benchmarks/README.md: make bench RECORDINGS=path/to/recordings
	$(BIN)/python benchmarks/reference.py $(RECORDINGS)

bench-zoo: setup ## the confusion matrices of docs/zoo.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/zoo.py

bench-remedies: setup ## every remedy at equal budget, 3 seeds: make bench-remedies IMAGES=path/to/t10k-images-idx3-ubyte.gz TEXT=path/to/gsm8k
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/remedies.py --images $(IMAGES) --text $(TEXT) --pictures benchmarks

bench-cured: setup ## does the first prescription of a sick run cure it
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/cured.py

clean: ## removes caches and build products; keeps .venv and outputs
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
