# make: install what is missing and train LeNet-5 on real digits. make test: every check.
PY ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := demo
.PHONY: demo install test test-all check catalog parity lock

demo: install
	$(BIN)/backbones train lenet5 --data digits

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PY) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip install -q --compile-bytecode -p .venv -c constraints.txt -e '.[train,plots,infer,keras,hf,dev]'
	touch $@

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest -n auto --dist loadgroup -m "not slow"

test-all: check
	$(BIN)/pytest -n auto --dist loadgroup

catalog: install
	$(BIN)/python -m backbones.catalog
	$(BIN)/python tests/scorecard.py
	$(BIN)/python tests/timm_weights.py

parity: install
	$(BIN)/python tests/parity_table.py

lock:
	$(BIN)/uv pip compile -q --universal --no-header --no-annotate --all-extras pyproject.toml -o constraints.txt
