# Every target does its own set-up: nothing but python3.11, make and a package index is assumed.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Two sets of packages in one environment: what the services and the command need, and all that checks and tests need.
RUN_READY := $(VENV)/.run-ready
READY := $(VENV)/.ready
INSTALL := requirements/install.py
# Python keeps what it compiles: without that, each start of TensorFlow would compile it again.
export PYTHONDONTWRITEBYTECODE :=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

# A stamp is written last, so that an interrupted set-up is done again; pip is what venv writes last.
$(RUN_READY): requirements/run.lock requirements/installer.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; install Python 3.11 or newer, or say make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/pip || { echo "Making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python $(INSTALL) requirements/run.lock --project . --size "600 MB to download, 2.0 GB on disk"
	@touch $@

$(READY): requirements/dev.lock $(RUN_READY)
	@$(BIN)/python $(INSTALL) requirements/dev.lock --size "350 MB to download, 0.7 GB on disk"
	@touch $@

.PHONY: setup
setup: $(READY) weights ## Make .venv with all locked packages, and fetch the VGG16 weights

WEIGHTS ?= vgg16
.PHONY: weights
weights: $(RUN_READY) ## Fetch and verify weights, done once: VGG16's, or WEIGHTS="vgg16 mobilenet"
	@for name in $(WEIGHTS); do $(BIN)/python -m embedder_service.weights fetch $$name || exit 1; done

.PHONY: demo
demo: weights ## Run the main job on real photographs (IMAGES=/your/folder for your own)
	@exec $(BIN)/python -m demo --parent $$PPID $(if $(IMAGES),--images "$(IMAGES)")

.PHONY: up
up: weights ## Run both services on this machine until Ctrl-C (data in ./data)
	@exec $(BIN)/python -m demo.local_stack --parent $$PPID

# Three workers on two processors: tests that compute and tests that wait for Milvus fill each other's gaps.
PYTEST := $(BIN)/python -m pytest -n 3

.PHONY: test
test: WEIGHTS = vgg16 mobilenet
test: setup ## Run the tests of every change (real weights, real servers, real Milvus; about 12 minutes on two cores)
	$(PYTEST)

.PHONY: test-all
test-all: WEIGHTS = vgg16 mobilenet
test-all: setup ## Run every test: those of `make test` and the long ones, before a release
	$(PYTEST) -m "soak or not soak"

# IMAGES= more photographs for binary codes; OBJECTS= a folder with `grocery` and `clothing`, for searches of objects
.PHONY: bench
bench: setup ## Measure both services against their peers (two hours, nothing else running; IMAGES=, OBJECTS= add photographs)
	$(BIN)/python -m benchmarks.embedder_throughput --json benchmarks/embedder_throughput.json
	$(BIN)/python -m benchmarks.search_latency --json benchmarks/search_latency.json
	$(BIN)/python -m benchmarks.ingest_rate --json benchmarks/ingest_rate.json
	$(BIN)/python -m benchmarks.neighbors --json benchmarks/neighbors.json
	$(BIN)/python -m benchmarks.binary_codes --vectors .tools/vectors --json benchmarks/binary_codes.json $(if $(IMAGES),--photographs $(IMAGES))
	$(if $(OBJECTS),$(BIN)/python -m benchmarks.object_search --photographs $(OBJECTS) --json benchmarks/object_search.json)

LANGUAGES ?= node go java
.PHONY: examples
examples: setup ## Run the clients in other languages against both services (LANGUAGES="node go" for some)
	$(BIN)/python -m examples $(LANGUAGES)

.PHONY: examples-tools
examples-tools: $(READY) ## Install the tools that the clients in other languages need (Debian, as root)
	$(BIN)/python -m examples --install $(LANGUAGES)

.PHONY: check
check: $(READY) ## Static checks: ruff, mypy, import contracts, buf, stubs up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m protos.generate --check
	$(BIN)/python -m codegen.blocking_client --check
	$(BIN)/python -m protos.lint
	$(BIN)/python -m docs.generate --check

CHECKOV := .venv-checkov
$(CHECKOV)/.ready: requirements/checkov.lock requirements/installer.lock
	test -x $(CHECKOV)/bin/pip || $(PYTHON) -m venv $(CHECKOV)
	$(CHECKOV)/bin/python $(INSTALL) requirements/checkov.lock
	touch $@

.PHONY: check-deploy
check-deploy: $(READY) $(CHECKOV)/.ready ## Check everything under deploy/, and that faults in it are noticed
	$(BIN)/python -m deploy.checks

DOCS_VENV := .venv-docs
$(DOCS_VENV)/.ready: requirements/docs.lock requirements/installer.lock
	test -x $(DOCS_VENV)/bin/pip || $(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python $(INSTALL) requirements/docs.lock
	touch $@

.PHONY: docs-site
docs-site: $(DOCS_VENV)/.ready ## Build the site of the docs into site/; a link that leads nowhere fails
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet

.PHONY: images
images: ## Build the three container images (needs Docker)
	for name in embedder search client; do DOCKER_BUILDKIT=1 docker build --file deploy/docker/$$name.Dockerfile \
	    --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
	    --tag imagesearch/$$name:$(VERSION) . || exit 1; done

.PHONY: test-containers
test-containers: setup ## Build the images and run them hardened (needs Docker, or docker.io and debootstrap as root)
	$(BIN)/python -m pytest tests/deploy/containers

.PHONY: test-cluster
test-cluster: setup ## Replicas behind a changing name: spread, kills, rolling restart, alerts (about 12 minutes)
	$(BIN)/python -m pytest tests/deploy/cluster

.PHONY: protos
protos: $(READY) ## Regenerate the stubs under protos/gen
	$(BIN)/python -m protos.generate

.PHONY: docs
docs: $(READY) ## Write the generated pages of docs/ from the code
	$(BIN)/python -m docs.generate

.PHONY: lock
lock: $(READY) ## Resolve the locked versions again (hashes, no index addresses)
	requirements/compile.sh $(BIN)/uv

.PHONY: clean
clean: ## Remove the virtual environment and every cache of the tools
	rm -rf $(VENV) $(CHECKOV) $(DOCS_VENV) site .tools examples/node/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
