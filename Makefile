# `make demo` and `make check` create the virtual environment that they need, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo check format lint types test thorough wheel golden live live-app-server live-clients clients programs \
	open-webui docs bench fuzz load clean

demo: $(STAMP)  ## Serve recorded agents: no Letta needed
	$(BIN)/letta-proxy demo

check: lint  ## Everything that must pass before a commit lands
	$(MAKE) --jobs 2 --output-sync types wheel
	$(MAKE) test

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	touch $(STAMP)

format: $(STAMP)  ## Format every file
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

types: $(STAMP)
	$(BIN)/mypy sansio_letta transports/letta_server transports/letta_recordings transports/letta_inprocess transports/letta_httpx transports/letta_httpx2 tests examples

test: $(STAMP)  ## A representative part of the tests: docs/promises.md says why it is enough
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --quiet

thorough: $(STAMP)  ## All tests, then coverage of the default ones; PART=1/3 runs a third, without the threshold
	THOROUGH=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --quiet
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest --numprocesses 2 --dist worksteal --quiet
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report $(if $(PART),--fail-under=0)

wheel: $(STAMP)  ## Build a wheel, and run its command in a new environment
	rm -rf dist build/wheel-venv
	$(BIN)/python -m build --wheel --outdir dist . >/dev/null
	$(PYTHON) -m venv --without-pip build/wheel-venv
	$(BIN)/python -m pip --python build/wheel-venv/bin/python install --quiet --disable-pip-version-check \
		--no-compile "$$(ls dist/*.whl)[server]"
	build/wheel-venv/bin/letta-proxy --help
	cd build && wheel-venv/bin/python ../tests/wheel_demo.py wheel-venv/bin/letta-proxy

golden: $(STAMP)  ## Rewrite fixtures/expected; review the difference before you commit it
	PYTHONPATH=tests $(BIN)/python tests/update_golden.py

live: $(STAMP)  ## Test with a real Letta server, which is installed on first use; PART=1/8 runs an eighth
	$(BIN)/python tests/live/rig.py up
	status=0; \
	$(BIN)/python -m pytest -p no:cacheprovider -o faulthandler_timeout=120 tests/live || status=1; \
	$(BIN)/python tests/live/rig.py down; \
	exit $$status

live-app-server: $(STAMP)  ## Test with a real App Server, Letta Code's, which is installed on first use
	$(BIN)/python tests/app_server_live/rig.py up
	status=0; \
	$(BIN)/python -m pytest -p no:cacheprovider -o faulthandler_timeout=120 tests/app_server_live || status=1; \
	$(BIN)/python tests/app_server_live/rig.py down; \
	exit $$status

live-clients: $(STAMP)  ## Test the client libraries in-process with a real Letta server
	$(BIN)/python tests/live/rig.py up
	status=0; \
	$(BIN)/python tests/clients_inprocess/run.py --letta http://127.0.0.1:8283 || status=1; \
	$(BIN)/python tests/live/rig.py down; \
	exit $$status

clients: $(STAMP)  ## Test the client libraries in-process, each in its own environment
	$(BIN)/python tests/clients_inprocess/run.py

programs: $(STAMP)  ## Test client programs with a real Letta server, all installed on first use; PART=1/3 runs a third
	$(BIN)/python -m pytest -p no:cacheprovider tests/clients --ignore=tests/clients/test_open_webui.py

open-webui: $(STAMP)  ## Test Open WebUI in a headless browser; installs 7 GB on first use
	$(BIN)/python -m pytest -p no:cacheprovider tests/clients/test_open_webui.py

docs: $(STAMP)  ## Build the documentation site in build/site
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement docs/requirements.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(STAMP)  ## Measure the performance budgets
	$(BIN)/python tests/bench/run.py

fuzz: $(STAMP)  ## Coverage-guided fuzzing, SECONDS for each target
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement tests/fuzz/requirements.txt
	$(BIN)/python tests/fuzz/harness.py --seconds $(or $(SECONDS),60)

load: $(STAMP)  ## 1,000 streams for a minute, then MINUTES of mixed traffic with faults
	mkdir -p build
	$(BIN)/python tests/load/run.py --minutes $(or $(MINUTES),30) --json build/load.json

clean:
	rm -rf $(VENV) build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
