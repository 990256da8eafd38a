# Reelhouse: everything starts here. `make help` lists the targets.
# Needs only make, a Python from 3.11 to 3.14 and a package index; works with nothing but PATH and HOME in the environment.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Which platform: two of different names can run side by side.
NAME ?= local
# Extra arguments for the command that a target runs, e.g. make up ARGS="--port gateway=8000".
ARGS ?=

UV_VERSION := 0.13.9
UV := .tools/bin/uv
RUN := .venv/bin

# The first of these that runs and that every pinned package has a wheel for; a shim that exists but does not run is
# skipped.
PYTHON := $(shell for candidate in python3.13 python3.12 python3.11 python3.14 python3; do \
	"$$candidate" -c 'import sys, venv, ensurepip; (3, 11) <= sys.version_info < (3, 15) or sys.exit(1); print(sys.executable)' \
	2>/dev/null && break; done)

# No interpreter is downloaded, and no other environment is used.
export UV_PYTHON_DOWNLOADS := never
export UV_PYTHON := $(PYTHON)
unexport VIRTUAL_ENV UV_PROJECT_ENVIRONMENT
# Without compiled modules on disk each process that starts compiles them again: a service needs twice the time.
unexport PYTHONDONTWRITEBYTECODE

MEMBER_PROJECTS := $(wildcard libs/*/pyproject.toml services/*/pyproject.toml deploy/*/pyproject.toml)

##@ Run
.PHONY: demo up down status token run dead-letters
demo: install ## Install, start everything, show the whole job end to end, stop (needs no keys, no Docker, no GPU)
	@$(RUN)/python -m local_platform demo --name $(NAME)-demo $(ARGS)

up: install ## Start the platform NAME (default local) and leave it running until Ctrl-C
	@$(RUN)/python -m local_platform up --name $(NAME) $(ARGS)

down: install ## Stop the platform NAME
	@$(RUN)/python -m local_platform down --name $(NAME)

status: install ## Say what runs where in the platform NAME
	@$(RUN)/python -m local_platform status --name $(NAME)

token: install ## Print a development token for the platform NAME
	@$(RUN)/python -m local_platform token --name $(NAME) $(ARGS)

run: install ## Run a command of a service in the platform NAME: make run SERVICE=auditor ARGS="show ID"
	@test -n "$(SERVICE)" || { echo 'Say which: make run SERVICE=auditor ARGS="show ID"' >&2; exit 2; }
	@$(RUN)/python -m local_platform run --name $(NAME) $(SERVICE) $(ARGS)

dead-letters: install ## List, show, replay or discard dead letters in the platform NAME: make dead-letters SERVICE=billing ARGS=list
	@test -n "$(SERVICE)" || { echo 'Say which: make dead-letters SERVICE=billing ARGS=list' >&2; exit 2; }
	@$(RUN)/python -m local_platform dead-letters --name $(NAME) $(SERVICE) $(ARGS)

##@ Check
.PHONY: test test-gpu-endpoint check lint types unit coverage audit k8s-check image-check format hooks
# mypy uses one core only, so what is short runs beside it. Tests also wait, for processes and timers: so more of them
# run at once than there are cores, in the order of tests/support/order.py.
test: install ## Everything that must pass before a commit: formatting, lint, types, architecture, tests
	@$(MAKE) -j 4 lint types node test-gpu-endpoint
	$(RUN)/pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

test-gpu-endpoint: install ## The tests of the GPU worker
	cd gpu-endpoint && .venv/bin/python -m pytest -n 3 --dist loadfile

check: install ## One test file or one test: make check TEST=tests/billing/unit/test_domain.py::test_name
	@test -n "$(TEST)" || { echo "Say which: make check TEST=path or TEST=path::name" >&2; exit 2; }
	$(RUN)/pytest $(TEST) $(ARGS)

# Without a cache: whether an import is ours depends on other files than the one that was looked at.
# .pre-commit-config.yaml runs the same three commands; a test holds that.
lint: install ## Formatting, lint and the rules of the architecture
	$(RUN)/ruff check --no-cache .
	$(RUN)/ruff format --check --no-cache .
	$(RUN)/lint-imports

types: install ## Static types, strict
	$(RUN)/mypy
	cd gpu-endpoint && .venv/bin/mypy

unit: install ## The tests that need no servers
	$(RUN)/pytest $(wildcard tests/*/unit) tests/contracts tests/architecture $(ARGS)

coverage: install ## Every branch of the domain modules, by the unit tests alone; fails below 100 %
	$(RUN)/pytest $(wildcard tests/*/unit) --cov --cov-report=term-missing:skip-covered $(ARGS)

audit: $(UV) ## Every lock file against the OSV database of known vulnerabilities; needs network, fails without it
	$(UV) audit --frozen $(ARGS)
	cd gpu-endpoint && ../$(UV) audit --frozen $(ARGS)
	cd deploy/checks && ../../$(UV) audit --frozen $(ARGS)
	cd clients && ../$(UV) audit --frozen $(ARGS)
	cd benchmarks/peers/arq_version && ../../../$(UV) audit --frozen $(ARGS)

k8s-check: install ## Render every overlay and combination of components, and hold them against schemas and settings
	$(RUN)/pytest tests/deploy/test_kubernetes.py tests/deploy/test_local_overlay.py $(ARGS)

image-check: install ## Lint the image files, and hold that every path they copy is there
	$(RUN)/pytest tests/deploy/test_image_files.py $(ARGS)

format: install ## Format the code and sort the imports
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

hooks: install ## Run the lint before every commit of this clone
	$(RUN)/pre-commit install

.PHONY: comfyui-real
comfyui-real: install ## The worker and the platform on a real ComfyUI with tiny weights: COMFYUI=<checkout>, COMFYUI_DEVICE=cuda for a GPU
	@test -n "$(COMFYUI)" || echo "NOTHING IS CHECKED AGAINST A REAL COMFYUI: give COMFYUI=<checkout>, and COMFYUI_PYTHON=<its Python>"
	cd gpu-endpoint && COMFYUI="$(abspath $(COMFYUI))" COMFYUI_PYTHON="$(COMFYUI_PYTHON)" .venv/bin/python -m pytest comfyui_real $(ARGS)
	COMFYUI="$(abspath $(COMFYUI))" COMFYUI_PYTHON="$(COMFYUI_PYTHON)" $(RUN)/pytest tests/comfyui_real $(ARGS)

##@ Measure and break
PEER_PACKAGE := benchmarks/peers/bullmq_version
.PHONY: observe observe-pictures bench bench-smoke bench-peers bench-start load faults faults-ledger faults-payments faults-generations faults-rollouts faults-cluster
observe: install ## A local platform under traffic with a real Prometheus: every panel and every alert has data; faults make alerts fire
	$(RUN)/python -m tests.observability.live $(ARGS)

observe-pictures: install ## The same, and pictures of the Overview and of One order for the README
	$(UV) run --frozen --inexact --group pictures python -m tests.observability.live --pictures docs/images

bench: install ## Every benchmark, each as a ratio against a peer and a limit
	$(RUN)/python -m benchmarks $(ARGS)

bench-smoke: install ## Overhead of the platform per generation at 1, 10 and 20 requests/s; memory and processor time per process
	$(RUN)/python -m benchmarks.smoke $(ARGS)

bench-peers: install benchmarks/peers/arq_version/.venv/.installed $(PEER_PACKAGE)/node_modules/.installed ## What an order costs beside a plain queue: ours, an arq and a BullMQ version, in one run; Linux or macOS
	$(RUN)/python -m benchmarks.peers $(ARGS)

bench-start: install ## From the start of a GPU worker to its first job, beside the stock one: COMFYUI=<checkout>
	cd gpu-endpoint && COMFYUI="$(if $(COMFYUI),$(abspath $(COMFYUI)))" COMFYUI_PYTHON="$(COMFYUI_PYTHON)" .venv/bin/python -m benchmarks.start $(ARGS)

.PHONY: bench-scale
ORDERS ?= 1000,10000
bench-scale: install ## What checks, show, claims and reads cost on histories of ORDERS (1000,10000): pages, not seconds
	$(RUN)/python -m benchmarks.scale --orders $(ORDERS) $(ARGS)

RATE ?= 5
MINUTES ?= 2
load: install ## Open-loop traffic at RATE orders/s for MINUTES, then three times that, then RATE again; nothing may be lost
	$(RUN)/python -m benchmarks.load --rate $(RATE) --minutes $(MINUTES) $(ARGS)

faults: faults-ledger faults-payments faults-generations faults-rollouts faults-cluster restore-drill ## All campaigns below and the restore drill: about 75 minutes

faults-ledger: install ## A million transfers under a running conservation check; random command sequences against a model
	$(RUN)/python -m tests.faults.ledger $(ARGS)
	$(RUN)/pytest tests/billing/integration/test_stateful.py -k any_interleaving --hypothesis-profile=campaign --timeout 3600

faults-payments: install ## Every way money comes and goes while webhooks are lost and scrambled, then while processes are killed
	$(RUN)/python -m tests.faults.payments $(ARGS)

.PHONY: restore-drill
restore-drill: install ## Restore PostgreSQL to a moment under load, three times, against today's NATS, files, RunPod and Stripe
	$(RUN)/python -m tests.faults.restores $(ARGS)

faults-generations: install ## Orders while every part is killed, frozen, cut off and made to forget; full disks need root, wrong clocks faketime
	$(RUN)/python -m tests.faults.generations $(ARGS)

faults-rollouts: install ## Two replicas of every service are restarted, then upgraded FROM another release, under load
	$(RUN)/python -m tests.faults.rollouts $(if $(FROM),--from-commit $(FROM)) $(ARGS)

faults-cluster: install ## Orders on three NATS servers that are killed, frozen and wiped, and while PostgreSQL fails over
	$(RUN)/python -m tests.faults.nats_cluster $(ARGS)
	$(RUN)/python -m tests.faults.failover --old-primary killed $(ARGS)
	$(RUN)/python -m tests.faults.failover --old-primary frozen $(ARGS)

##@ Images
.PHONY: images images-local sbom
SERVICES := gateway billing generation storage payments auditor
TAG ?= dev

images: sbom ## Build every service's image as reelhouse/<service>:TAG (default dev); needs a container engine
	@for service in $(SERVICES); do \
		docker build --file deploy/images/Dockerfile --tag reelhouse/$$service:$(TAG) --build-arg SERVICE=$$service \
			--build-arg VERSION=$(TAG) --build-arg REVISION=$$(git rev-parse HEAD) $(ARGS) . || exit 1; done

images-local: install ## Try the images and the whole of Compose where no registry is; needs root, docker.io, debootstrap
	deploy/images/on_debian.sh $(RUN)/pytest -s tests/deploy/test_images.py tests/deploy/test_compose_up.py $(ARGS)

sbom: $(UV) ## Write the bill of materials of each image (CycloneDX) to dist/sbom
	@mkdir -p dist/sbom
	@for service in $(SERVICES); do \
		$(UV) export --quiet --frozen --no-dev --package $$service --format cyclonedx1.5 \
			--output-file dist/sbom/$$service.cdx.json >/dev/null || exit 1; done
	@ls dist/sbom

.PHONY: image-gpu comfyui-pin models-manifest
TARGET ?= slim
image-gpu: install ## Build the ComfyUI worker's image (TARGET=slim, baked or preview); needs BuildKit and a CUDA base
	cd gpu-endpoint && TAG=$(TAG) docker buildx bake --load $(ARGS) $(TARGET)

comfyui-pin: install ## Learn the commit of the pinned ComfyUI into gpu-endpoint/comfyui.lock.json
	cd gpu-endpoint && .venv/bin/python -m gpu_endpoint.comfyui_pin learn

models-manifest: install ## Write gpu-endpoint/models.json and warm_ups.json from the catalogue
	gpu-endpoint/.venv/bin/python -m gpu_endpoint.provision manifest libs/catalogue/src/catalogue/models \
		> gpu-endpoint/models.json.unfinished
	mv gpu-endpoint/models.json.unfinished gpu-endpoint/models.json
	$(RUN)/python -m catalogue warm-ups > gpu-endpoint/warm_ups.json.unfinished
	mv gpu-endpoint/warm_ups.json.unfinished gpu-endpoint/warm_ups.json

##@ Clients
.PHONY: client screenshots node
NODE_PACKAGES := clients/typescript tests/browser
client: docs node ## Generate and bundle the TypeScript client from the description of the API
	cd clients/typescript && ../npm run --silent generate && ../npm run --silent build && \
		../npm run --silent types-before && ../npm run --silent types
	cp clients/typescript/dist/index.js clients/playground/client.js

screenshots: node ## The pictures of the playground in docs/images, made by its test in a real Chromium
	PLAYGROUND_PICTURES=docs/images $(RUN)/pytest tests/clients/test_on_a_platform.py -k playground $(ARGS)

node: install ## Install Node and a Chromium for the tests of the clients; where they are not to be had, it says so
	@for package in $(NODE_PACKAGES); do $(MAKE) $$package/node_modules/.installed || { \
		echo "$$package IS NOT TESTED: Node or its packages cannot be installed here" >&2; }; done

clients/.venv/.installed: clients/pyproject.toml clients/uv.lock | $(UV)
	cd clients && ../$(UV) sync --frozen
	@touch $@

$(NODE_PACKAGES:%=%/node_modules/.installed) $(PEER_PACKAGE)/node_modules/.installed: %/node_modules/.installed: %/package-lock.json clients/.venv/.installed
	cd $* && $(CURDIR)/clients/npm ci --silent --fetch-retries 1 --fetch-retry-mintimeout 1000
	@touch $@

##@ Documents
.PHONY: docs dashboards
docs: install ## Generate docs/asyncapi.json, docs/openapi.json, docs/statuses.md, tables of docs/api.md and the NATS files
	$(RUN)/python -m contracts.asyncapi docs/asyncapi.json
	$(RUN)/python -m local_platform.openapi docs/openapi.json
	$(RUN)/python -m local_platform.statuses docs/statuses.md docs/api.md
	$(RUN)/python -m local_platform.api_answers docs/api.md
	$(RUN)/python -m provisioning broker --format chart > deploy/k8s/components/nats/values.json
	$(RUN)/python -m provisioning broker --format server > deploy/compose/nats.conf

dashboards: install ## Generate the dashboards, the alert rules with their tests, and the alerts of docs/runbook.md
	$(RUN)/python -m deploy.observability

##@ Set up
.PHONY: install lock clean help
install: .venv/.installed gpu-endpoint/.venv/.installed deploy/checks/.venv/.installed ## Install everything, each part into its own .venv

lock: $(UV) ## Resolve the dependencies again after a pyproject.toml changed
	$(UV) lock
	cd gpu-endpoint && ../$(UV) lock
	cd deploy/checks && ../../$(UV) lock
	cd clients && ../$(UV) lock
	cd benchmarks/peers/arq_version && ../../../$(UV) lock

$(UV):
	@test -n "$(PYTHON)" || { \
		echo "No usable Python found: Reelhouse needs Python 3.11 to 3.14 with venv and ensurepip." >&2; \
		echo "Install one (Debian: apt install python3 python3-venv; macOS: brew install python) and try again." >&2; \
		exit 1; }
	@echo "Installing uv $(UV_VERSION) into .tools (Python: $(PYTHON))"
	@rm -rf .tools
	@$(PYTHON) -m venv .tools
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)" || { \
		echo "pip reaches no package index that has uv: see HTTPS_PROXY, PIP_INDEX_URL, PIP_CERT." >&2; exit 1; }

# The stamp lies inside the environment, so that deleting the environment deletes the stamp.
.venv/.installed: pyproject.toml uv.lock $(MEMBER_PROJECTS) | $(UV)
	$(UV) sync --all-packages --frozen
	@touch $@

gpu-endpoint/.venv/.installed: gpu-endpoint/pyproject.toml gpu-endpoint/uv.lock | $(UV)
	cd gpu-endpoint && ../$(UV) sync --frozen
	@touch $@

deploy/checks/.venv/.installed: deploy/checks/pyproject.toml deploy/checks/uv.lock | $(UV)
	cd deploy/checks && ../../$(UV) sync --frozen
	@touch $@

benchmarks/peers/arq_version/.venv/.installed: benchmarks/peers/arq_version/pyproject.toml benchmarks/peers/arq_version/uv.lock | $(UV)
	cd benchmarks/peers/arq_version && ../../../$(UV) sync --frozen
	@touch $@

clean: ## Remove the environments, the caches and the logs of stopped platforms
	@for file in .reelhouse/*/platform.json; do \
		test ! -e "$$file" || { echo "$$file: stop that platform first (make down NAME=...)" >&2; exit 1; }; done
	rm -rf .venv .tools gpu-endpoint/.venv deploy/checks/.venv clients/.venv benchmarks/peers/arq_version/.venv $(NODE_PACKAGES:%=%/node_modules) $(PEER_PACKAGE)/node_modules .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .reelhouse
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@ / {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  \033[36m%-20s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
