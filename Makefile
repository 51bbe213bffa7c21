# All development tasks. Each target installs missing prerequisites, so later runs are fast.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GENERATOR := .venv-generate
RELEASE := .venv-dist
DIST ?= dist
export UV_PYTHON_DOWNLOADS := never
STUBS := clients/python/src

.DEFAULT_GOAL := help
.PHONY: help run test test-slow test-all test-live probe-zoom check format format-check lint types proto imports contracts generate docs screenshots soak year bench dist lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.runtime ## Run the service, its store and the Zoom simulator locally (ARGS="…" for options)
	@$(BIN)/zoomgate run $(ARGS)

test: $(VENV)/.development ## Run the fast tests, in parallel (ARGS="…" for pytest options)
	@$(BIN)/python -m pytest -m "not slow" -n 4 $(ARGS)

test-slow: $(VENV)/.development $(RELEASE)/.ready ## Run the other tests: killed processes, MongoDB, browsers, long histories
	@$(BIN)/python -m pytest -m slow -n 2 $(ARGS)

test-all: test test-slow ## Run all tests

test-live: $(VENV)/.development ## Run the tests that use MongoDB against the server at ZOOMGATE_TEST_MONGODB_URI
	@$(BIN)/python -m pytest --live -n 2 $(ARGS)

probe-zoom: $(VENV)/.development ## Ask Zoom, with a test app and a test user, about the rules that its documentation leaves open
	@PYTHONPATH=tests $(BIN)/python -m live

check: $(VENV)/.development ## Run all checks: formatting, lint, types, protobuf API, imports, stubs and documentation
	@status=0; for target in format-check lint types proto imports contracts; do \
	  $(MAKE) --no-print-directory $$target || status=1; done; exit $$status

format: $(VENV)/.development ## Format the code and the proto files
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/buf format -w

format-check: $(VENV)/.development
	@echo "format"; $(BIN)/ruff format --check --quiet . && $(BIN)/buf format -d --exit-code

lint: $(VENV)/.development ## Lint the code
	@echo "lint"; $(BIN)/ruff check --quiet .

types: $(VENV)/.development ## Check types
	@echo "types"; $(BIN)/mypy --no-error-summary

proto: $(VENV)/.development ## Lint the proto files and check compatibility with the latest release
	@echo "proto"; $(BIN)/buf lint && $(BIN)/python .ci/buf_breaking.py

imports: $(VENV)/.development ## Check the import rules between modules
	@echo "imports"; $(BIN)/lint-imports --no-logo > $(VENV)/imports.log 2>&1 || { cat $(VENV)/imports.log; exit 1; }

contracts: $(VENV)/.development ## Check that the stubs are up to date and the documentation is complete
	@echo "contracts"; $(BIN)/python -m pytest -q --no-header -o addopts=--import-mode=importlib \
	  tests/contract/test_stubs.py::test_stubs_are_up_to_date tests/contract/test_errors.py \
	  tests/contract/test_settings.py tests/contract/test_repository.py \
	  tests/contract/test_operations.py tests/contract/test_audit.py tests/contract/test_rpcs.py
	@$(BIN)/python .ci/command_page.py --check
	@$(BIN)/python .ci/rules_page.py --check
	@$(BIN)/python .ci/service_config.py --check

generate: $(GENERATOR)/.ready $(VENV)/.runtime ## Generate the Python stubs and the service config from the proto files
	@rm -f $(STUBS)/zoomgate/v1/*_pb2.py $(STUBS)/zoomgate/v1/*_pb2.pyi $(STUBS)/zoomgate/v1/*_pb2_grpc.py $(STUBS)/zoomgate/v1/*_pb2_grpc.pyi
	@PATH="$(CURDIR)/$(GENERATOR)/bin:$$PATH" sh .ci/generate.sh $(STUBS)
	@$(BIN)/python .ci/service_config.py

docs: $(VENV)/.development ## Generate docs/commands.md, docs/meeting-rules.md and docs/rpcs.md
	@$(BIN)/python .ci/command_page.py
	@$(BIN)/python .ci/rules_page.py
	@$(BIN)/python -m pytest -q --no-header -o addopts=--import-mode=importlib --regenerate tests/contract/test_rpcs.py

screenshots: $(VENV)/.development ## Regenerate the images of the documentation (requires chromium and chromedriver)
	@$(BIN)/python .ci/screenshots.py

N ?= 1000000
soak: $(VENV)/.development ## Search for histories that break the refresh or the lifecycle protocols (N=… histories of each)
	@PYTHONPATH=tests $(BIN)/python -m model $(N)

USERS ?= 10000
year: $(VENV)/.development ## Simulate a year of proactive refresh in virtual time (USERS=… users)
	@PYTHONPATH=tests $(BIN)/python -m model.year $(USERS)

bench: $(VENV)/.development ## Run the benchmarks and compare them with the baseline (docs/performance.md)
	@$(BIN)/python -m bench $(ARGS)

# Two builds of the same commit are identical (docs/releases.md). The SBOM describes the locked installation of the server.
dist: $(RELEASE)/.ready ## Build the wheels, the source distributions and the SBOM into dist/
	@git rev-parse --quiet --verify HEAD > /dev/null 2>&1 || { \
	  echo "make dist: git cannot read the commit; run this in a clone of the repository, as the user who owns it" >&2; exit 1; }
	@rm -rf $(DIST)
	@for project in clients/python server/zoom_simulator .; do \
	  SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(RELEASE)/bin/uv build --quiet --no-build-isolation --no-create-gitignore \
	    --python $(RELEASE)/bin/python --out-dir $(DIST) $$project || exit 1; done
	@$(RELEASE)/bin/uv venv --quiet --python $(RELEASE)/bin/python $(DIST)/locked
	@$(RELEASE)/bin/uv pip install --quiet --python $(DIST)/locked --require-hashes -r deploy/requirements.lock
	@$(RELEASE)/bin/uv pip install --quiet --python $(DIST)/locked --no-index --no-deps --find-links $(DIST) zoomgate zoomgate-server
	@$(RELEASE)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file $(DIST)/zoomgate-server.cdx.json $(DIST)/locked
	@rm -rf $(DIST)/locked
	@cd $(DIST) && sha256sum * > SHA256SUMS && cat SHA256SUMS

lock: $(RELEASE)/.ready ## Update deploy/requirements.lock after a change of constraints.txt
	@$(RELEASE)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
	  --constraint constraints.txt --extra opentelemetry --no-emit-package zoomgate --output-file deploy/requirements.lock pyproject.toml

clean: ## Remove build artifacts and caches; the data directory is not removed
	rm -rf $(VENV) $(GENERATOR) $(RELEASE) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Zoomgate requires Python 3.11 or newer, not " + sys.version.split()[0] + "; set PYTHON=python3.x") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml clients/python/pyproject.toml server/zoom_simulator/pyproject.toml constraints.txt
	@echo "installing the service, the Zoom simulator and their dependencies, which takes one to two minutes"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e clients/python -e server/zoom_simulator -e .
	@touch $@

$(VENV)/.development: $(VENV)/.runtime
	@echo "installing the test and check tools"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"  # for dependency groups; an existing $(VENV) may have an older pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[opentelemetry]' --group test --group check
	@touch $@

$(GENERATOR)/.ready: constraints-generate.txt
	@$(PYTHON) -m venv $(GENERATOR)
	@$(GENERATOR)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-generate.txt grpcio-tools mypy-protobuf setuptools
	@touch $@

$(RELEASE)/.ready: constraints-dist.txt
	@$(PYTHON) -m venv $(RELEASE)
	@$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-dist.txt cyclonedx-bom hatchling uv
	@touch $@
