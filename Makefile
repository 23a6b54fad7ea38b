# Bare `make` lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK := requirements/dev.txt
# Others that `make bench` measures against, in an environment of their own.
BENCH := $(VENV)/bench
VERSION := 0.1.0

# What is compiled once need not be compiled by each of the processes that the suite starts.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install run test test-brokers test-debian test-images chaos check fmt bench bench-long image lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

$(STAMP): $(LOCK) pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

install: $(STAMP) ## install into .venv, everything pinned by hash
	@told=$$($(BIN)/python -I -m rockbot_scripts.wasm.build) || { echo "$$told" >&2; exit 1; }

run: install ## set up, start embedded, work through examples/tasks.jsonl, show the dead letter
	@mkdir -p .rockbot && chmod 700 .rockbot
	@$(BIN)/rockbot --socket .rockbot/run.sock --state "sqlite:///.rockbot/run.db" up --feed examples/tasks.jsonl --once

# What kills and measures processes and brokers runs by itself, behind everything else on two workers.
ALONE := tests/chaos tests/crash $(addprefix tests/e2e/test_,cancelling.py dead_letters_at_scale.py over_rabbitmq.py survival.py) \
	$(addprefix tests/rabbitmq/test_,accidents.py cluster.py letters_at_scale.py)

test: install ## install the servers the tests need, run the whole suite (PYTEST_ARGS: a part of it)
	@bash tests/nodes/install.sh
ifdef PYTEST_ARGS
	@$(BIN)/python -m pytest $(PYTEST_ARGS)
else
	@code=0; \
	$(BIN)/python -m pytest -n 2 --dist loadfile $(addprefix --ignore=,$(ALONE)) || code=1; \
	$(BIN)/python -m pytest $(ALONE) || code=1; \
	exit $$code
endif

chaos: install ## the sizes that are too large for every day: three-node cluster, 20,000 messages, 100,000 letters
	@bash tests/nodes/install.sh
	@ROCKBOT_TEST_FULL=1 $(BIN)/python -m pytest -m full -s $(PYTEST_ARGS)

test-brokers: install ## run the broker's part of the suite on later releases of RabbitMQ, too (root, Debian; a minute each to get)
	@bash tests/nodes/install.sh
	@for suite in trixie testing; do \
		said=$$(bash tests/nodes/another_debian.sh $$suite .debian/$$suite) || exit 1; \
		echo "$$suite: $$said"; \
		env "$$said" $(BIN)/python -m pytest $(or $(PYTEST_ARGS),tests/rabbitmq) || exit 1; \
	done

# What the suite needs in a Debian that has nothing.
NEEDED := python3-venv,python3-dev,redis-server,postgresql,make,git,openssl,ca-certificates,procps,iproute2

test-debian: ## run what is committed, the whole suite, on another Debian release: its Python and its servers (SUITE=testing; root)
	@bash tests/nodes/another_debian.sh $(or $(SUITE),testing) .debian/$(or $(SUITE),testing)-whole $(NEEDED)
	@rm -rf .debian/$(or $(SUITE),testing)-whole/tree/rockbot
	@git clone --quiet . .debian/$(or $(SUITE),testing)-whole/tree/rockbot
	@HOME=/root .debian/$(or $(SUITE),testing)-whole/inside make -C /rockbot test $(if $(PYTEST_ARGS),PYTEST_ARGS="$(PYTEST_ARGS)")

check: $(STAMP) ## formatting, lint, types, architecture contracts
	@$(BIN)/ruff format --check --quiet . || { echo "run: make fmt"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

fmt: $(STAMP) ## format and fix what can be fixed
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .

$(BENCH)/.installed: $(STAMP) requirements/bench.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@touch $@

bench: install $(BENCH)/.installed ## measure against aio-pika, FastStream, Dramatiq, Celery, Taskiq, LangGraph, DBOS, as ratios in one run
	@bash tests/nodes/install.sh
	@$(BIN)/python -m tests.benchmarks $(BENCH_ARGS)
	@$(BIN)/python -m tests.benchmarks.conversation

bench-long: install ## a million messages: whether memory and cost per message stay flat
	@bash tests/nodes/install.sh
	@$(BIN)/python -m tests.benchmarks.long $(BENCH_ARGS)

image: ## build the container images with docker or podman (PYTHON_IMAGE: another base; IMAGE_ARGS: more for the build)
	@engine=$$(for each in docker podman; do $$each info > /dev/null 2>&1 && echo $$each && break; done); \
	[ -n "$$engine" ] || { echo "make image: neither docker nor podman answers; start one, or say where it listens (DOCKER_HOST)"; exit 1; }; \
	for target in host scripts cli; do \
		$$engine build --file docker/Dockerfile --target $$target --tag rockbot-$$target:$(VERSION) \
			--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null) \
			$(if $(PYTHON_IMAGE),--build-arg PYTHON_IMAGE=$(PYTHON_IMAGE)) $(IMAGE_ARGS) . || exit 1; \
	done

test-images: install ## build the images and run them, with a broker: read-only, as nobody, with no network but the bus
	@bash tests/nodes/install.sh
	@$(BIN)/python -m pytest -m images -s tests/images $(PYTEST_ARGS)

lock: ## resolve the pinned requirements anew (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -q \
		--extra rabbitmq --extra anthropic --extra openai --extra wasm --extra redis --extra sql --extra gateway --extra otel --group dev -o requirements/dev.txt
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -q \
		--group bench -c requirements/dev.txt -o requirements/bench.txt
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -q \
		--all-extras -o requirements/all.txt
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -q \
		--extra rabbitmq --extra anthropic --extra openai --extra redis --extra sql --extra gateway --extra otel -o requirements/host.txt
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -q \
		--extra rabbitmq --extra redis --extra sql --extra wasm --extra otel -o requirements/scripts.txt
	echo "hatchling>=1.27" | uv pip compile - --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -q \
		-o requirements/build.txt

clean: ## remove what install and run made
	rm -rf $(VENV) .rockbot .debian .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
