# From a fresh clone each target sets up what it needs by itself; a machine needs only make and Python 3.11 or later.

VENV := .venv
PY := $(VENV)/bin/python

# The first interpreter that is new enough. Each is run, since a shim on PATH may stand for nothing.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: help demo test check format cov kill faults chaos sim sim-bugs fuzz bench clean

help:
	@echo "make demo    see it work: functions that outlive a killed process"
	@echo "make test    run all tests"
	@echo "make check   ruff, mypy and pyright (both strict), and the layers"
	@echo "make format  let ruff format and sort imports"
	@echo "make cov     coverage of the folds by their own tests; fails below 100%"
	@echo "make kill    a hundred SIGKILLs of a real engine, and the log read by code of its own"
	@echo "make faults  the embedded log under a thousand kills and five hundred power failures"
	@echo "make chaos   workers on a real Kafka under kills, stops and brokers that die"
	@echo "make sim     two thousand worlds in which whatever can fail does (SEEDS=…)"
	@echo "make sim-bugs  rules of the engine left out one at a time: do the worlds notice?"
	@echo "make fuzz    the HTTP API under schemathesis: two hundred requests for each operation, right and wrong ones"
	@echo "make bench   how fast it is on this machine"
	@echo "make clean   remove what the tools made (not $(VENV), not .perdure)"

demo: $(VENV)/.runs
	@$(PY) examples/demo.py

test: $(VENV)/.tests
	@$(PY) -m pytest -n auto $(ARGS)

check: $(VENV)/.tests
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -m pyright
	$(PY) -m pytest -q tests/test_layers.py
	@find engine connectors schemas -name '*.py' -exec wc -l {} + | \
		awk '$$2 != "total" && $$1 > 400 { print "hint: " $$2 " has " $$1 " lines; does it hide two modules?" }'

format: $(VENV)/.tests
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

# `coverage run`, not pytest-cov: Perdure's own pytest plugin is imported before pytest-cov begins to count.
cov: $(VENV)/.tests
	$(PY) -m coverage run --source=perdure.flow -m pytest -q tests/flow
	$(PY) -m coverage report --fail-under=100

# The long form of the system test that `make test` runs with a dozen kills.
kill: $(VENV)/.tests
	@PERDURE_KILLS=100 $(PY) -m pytest -s tests/system/kill

# Whatever can fail does, in so many worlds; SEED=17 plays one of them and shows its trace if it fails.
SEEDS ?= 2000
sim: $(VENV)/.tests
	@$(PY) -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) $(if $(FIRST),--first $(FIRST)))

# Each bug is looked for in so many worlds; the seeds that catch them are recorded for CI.
sim-bugs: $(VENV)/.tests
	@$(PY) -m tests.simulation.bugs $(ARGS)

# The long form of tests that `make test` runs for seconds. A quarter of an hour on two free cores; says how far it is.
faults: $(VENV)/.tests
	@PERDURE_FAULT_KILLS=1000 PERDURE_FAULT_LOSSES=500 PERDURE_FAULT_ENGINES=50 PERDURE_FAULT_FULL=10 \
		PERDURE_FAULT_DAMAGES=100 $(PY) -m pytest -s -o faulthandler_timeout=0 tests/system/faults

# The long form of the test on a real Kafka that `make test` runs for under a minute. SEED=17 draws other faults.
chaos: $(VENV)/.tests
	@PERDURE_CHAOS_RUNS=5200 PERDURE_CHAOS_KILLS=40 PERDURE_CHAOS_STOPS=10 PERDURE_CHAOS_BROKERS=3 \
		PERDURE_SEED=$(or $(SEED),3) $(PY) -m pytest -s -o faulthandler_timeout=0 tests/kafka/chaos

# The long form of the test that `make test` runs with a few examples. Ten minutes.
fuzz: $(VENV)/.tests
	@PERDURE_FUZZ_EXAMPLES=$(or $(EXAMPLES),200) $(PY) -m pytest -o faulthandler_timeout=0 tests/http/test_fuzzed.py

bench: $(VENV)/.tests
	@$(PY) -m benchmarks $(ARGS)

clean:
	rm -rf dist build htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find engine connectors schemas tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +

# Two stamps, so that the demo need not wait for the checkers. Both are made again when pyproject.toml changes.
$(VENV)/.runs: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing Perdure into $(VENV) (once, under a minute) …"
	@$(PY) -m pip install --disable-pip-version-check -e '.[server,fast]'
	@touch $@

$(VENV)/.tests: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing Perdure with its tests and checkers into $(VENV) (once, a minute or two) …"
	@$(PY) -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.runs

# pip is what a half-made environment lacks (Debian without python3-venv), so it is the file to look for.
$(VENV)/bin/pip:
	@if ! $(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		found=$$($(or $(PYTHON),python3) --version 2>/dev/null) || found="not there"; \
		echo "Perdure needs Python 3.11 or later; $(or $(PYTHON),python3) is $$found." >&2; \
		echo "Install one (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python)," >&2; \
		echo "or name one that is there: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
		exit 1; \
	fi
	@echo "Making $(VENV) with $$($(PYTHON) --version) …"
	@$(PYTHON) -m venv $(VENV) || { \
		echo "Making the environment failed. On Debian and Ubuntu: apt install python3-venv, then make again." >&2; exit 1; }
