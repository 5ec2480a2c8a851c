# Everything that a target needs it installs itself, into .venv. Needs: Python 3.11 or newer, make, and a package index.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN = .venv/bin
DECLARED = pyproject.toml constraints.txt
ELT = '.[dbt,great-expectations]'
# Newer ones need a newer Node than the long-lived Linuxes have.
AZURITE = azurite@3.35.0
BIGQUERY = integration_tests/standins/bigquery-constraints.txt
SNOWFLAKE = integration_tests/standins/snowflake-constraints.txt
POOLS = integration_tests/standins/pools-constraints.txt
# What it makes a difference to whether an extra is there; a campaign runs all of tests without extras.
MINIMAL = $(addprefix tests/test_,block.py block_standards.py cli.py errors.py imports.py object_store.py packaging.py)

# A test that hangs fails, and says where. One that no signal ends takes its worker along, and xdist tries it again.
NO_HANG = --timeout 240 --max-worker-restart 1 -o faulthandler_timeout=400 -o faulthandler_exit_on_timeout=true

# No telemetry, and patience with a slow machine when Prefect starts its temporary server.
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS = 120
# The tests start hundreds of processes: what one of them compiled, the next one need not.
test test-minimal campaign faults: export PYTHONDONTWRITEBYTECODE =
# Threads come and go by the hundred: glibc would keep freed memory in an arena for each of many (half of a process).
test test-minimal campaign faults: export MALLOC_ARENA_MAX = 2

.PHONY: run run-elt test azurite standins test-minimal check wheel wheel-check bench campaign faults constraints clean

run: .venv/base  ## the orders pipeline on the data shipped with it: no account, no server
	$(BIN)/etl run orders_pipeline

run-elt: .venv/elt  ## raw files -> dbt -> Great Expectations on the data shipped with it: no account, no server
	$(BIN)/etl run elt_with_dbt

test: .venv/all azurite standins test-minimal  ## everything, against real servers on loopback
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(NO_HANG)  # half of the time is spent waiting

azurite: .venv/azurite/$(AZURITE)  ## the stand-in for Azure, where there is npm; else its tests are skipped

standins: .venv-bigquery/done .venv-snowflake/done  ## stand-ins that need other versions than we do

test-minimal: .venv-minimal/done  ## the unit tests that depend on extras, where none is installed
	.venv-minimal/bin/pytest -n 2 --without-server $(NO_HANG) $(MINIMAL)

check: .venv/all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/tables.py --check

wheel: .venv/base  ## dist/etl_blocks-VERSION-py3-none-any.whl, to install elsewhere
	rm -rf build dist && $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

wheel-check: .venv/all  ## the wheel in fresh environments, by pip and by uv, on every Python of this machine from 3.11 on
	$(BIN)/pytest --thorough tests/test_wheel.py

bench: .venv/bench standins
	set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

campaign: .venv/bench .venv-minimal/done .venv-pools/done azurite standins  ## kills a pipeline ten times, moves many and large objects, tries every case (an hour)
	$(BIN)/python -m integration_tests.campaigns.kill_orders
	$(BIN)/python -m integration_tests.campaigns.large_objects
	$(BIN)/python -m integration_tests.campaigns.tpch_warehouses
	$(BIN)/python -m integration_tests.campaigns.quality_scale
	$(BIN)/python -m integration_tests.campaigns.duckdb_memory
	.venv-minimal/bin/pytest -n 2 --without-server tests
	$(BIN)/pytest -n 2 --dist loadfile --thorough

faults: .venv/all azurite standins  ## attacks loads into nine targets; resumable: make faults SEED=1 CASES=10000; one again: CASE=4711
	$(BIN)/python -m integration_tests.faults --cases $(or $(CASES),1000) --seed $(or $(SEED),0) $(if $(CASE),--case $(CASE)) \
		$(if $(ONLY),--only $(ONLY))

constraints:  ## the newest versions that fit the bounds of pyproject.toml; run the tests before you commit them
	rm -rf .venv-constraints && $(PYTHON) -m venv .venv-constraints && .venv-constraints/bin/python -m pip install --quiet uv
	.venv-constraints/bin/uv pip install --quiet --python .venv-constraints/bin/python --editable '.[all]' \
		--group test --group bench
	head -1 constraints.txt > .venv-constraints/pins
	.venv-constraints/bin/uv pip freeze --quiet --python .venv-constraints/bin/python --exclude-editable \
		| grep -v -E '^(pip|setuptools|uv)==' >> .venv-constraints/pins
	mv .venv-constraints/pins constraints.txt && rm -rf .venv-constraints

clean:
	rm -rf .venv .venv-minimal .venv-bigquery .venv-snowflake .venv-pools build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .faults warehouse

# uv is ten times as fast as pip here (5 s against 30 s); where it cannot reach the index, pip may know how.
define install
	@echo "Installing into $(1): $(2)"
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	@test -x $(1)/bin/uv || $(1)/bin/python -m pip install --quiet --upgrade pip uv
	@$(1)/bin/uv pip install --quiet --compile-bytecode --python $(1)/bin/python --constraint constraints.txt $(2) \
		|| $(1)/bin/python -m pip install --quiet --constraint constraints.txt $(2)
endef

.venv/base: $(DECLARED)
	$(call install,.venv,--editable .)
	@touch $@

.venv/elt: .venv/base
	$(call install,.venv,--editable $(ELT))
	@touch $@

.venv/all: .venv/base
	$(call install,.venv,--editable '.[all]' --group test)
	@touch $@

.venv/azurite/$(AZURITE):
	@rm -rf $(@D) && mkdir -p $(@D)
	@if ! command -v npm >/dev/null; then echo "The tests of Azure are skipped: there is no npm to install $(AZURITE) with."; \
	elif npm install --prefix $(@D) --no-audit --no-fund --loglevel error $(AZURITE); then touch $@; \
	else echo "The tests of Azure are skipped: npm could not install $(AZURITE)."; rm -rf $(@D); fi

define install_pins
	@rm -rf $(1) && $(PYTHON) -m venv $(1) && $(1)/bin/python -m pip install --quiet --upgrade pip uv
	@$(1)/bin/uv pip install --quiet --compile-bytecode --python $(1)/bin/python --requirement $(2) \
		|| $(1)/bin/python -m pip install --quiet --requirement $(2)
endef

# The server finds DuckDB's spatial extension in its home directory.
.venv-bigquery/done: $(BIGQUERY)
	$(call install_pins,$(@D),$(BIGQUERY))
	@mkdir $(@D)/home
	@HOME=$(CURDIR)/$(@D)/home $(@D)/bin/python -c "from duckdb_extensions import import_extension as add; add('spatial')"
	@touch $@

.venv-snowflake/done: $(SNOWFLAKE)
	$(call install_pins,$(@D),$(SNOWFLAKE))
	@touch $@

.venv-pools/done: $(POOLS)
	$(call install_pins,$(@D),$(POOLS))
	@touch $@

.venv/bench: .venv/all
	$(call install,.venv,--group bench)
	@touch $@

.venv-minimal/done: $(DECLARED)
	$(call install,.venv-minimal,--editable . --group test-base)
	@touch $@
