# Every target sets up what it needs, with Python >= 3.11 and nothing else.
#
#   make demo ARGS="--once"     the whole story on embedded parts
#   make serve ARGS="--port 0"  the API and the background work
#   make simulate JOB=...       let the demo's cast work on a published job
#   make test ARGS="-k ledger"  the tests
#   make faults TIMES=3         everything that can fail in a flow of money fails, each 3 times
#   make check                  everything else that must hold before a merge
#   make openapi                write openapi/openapi.json after a change of the API
#   make lock ARGS="--upgrade"  write the locks after a change of pyproject.toml
#   make clean                  remove what was made here, except data

VENV = .venv
RUN = $(VENV)/bin/python
PIP = PIP_USER=0 $(RUN) -m pip --quiet --disable-pip-version-check --no-input
# One more than there are cores: stories wait for processes of their own as well.
TEST_PROCESSES = $$(($$(getconf _NPROCESSORS_ONLN) + 1))

.NOTPARALLEL:
.PHONY: demo serve simulate test faults check lint types layers api migrations wheel locks openapi lock clean

demo: $(VENV)/run.stamp
	@$(RUN) -m marketplace demo $(ARGS)

serve: $(VENV)/run.stamp
	@$(RUN) -m marketplace serve $(ARGS)

simulate: $(VENV)/run.stamp
	@$(RUN) -m marketplace simulate $(JOB) $(ARGS)

test: $(VENV)/dev.stamp
	$(RUN) -m pytest -n $(TEST_PROCESSES) $(ARGS)

# CELL="payout:3:POST /v1/transfers:1:429" plays one of them again, FLOWS="payout deposit" only those.
TIMES = 3
SEED = 1
faults: $(VENV)/dev.stamp
	FAULTS_TIMES=$(TIMES) FAULTS_SEED=$(SEED) FAULTS_CELL="$(CELL)" FAULTS_FLOWS="$(FLOWS)" \
		$(RUN) -m pytest -n $(TEST_PROCESSES) tests/faults$(if $(CELL)$(FLOWS),/test_campaign.py) $(ARGS)

check: lint types layers api migrations wheel locks

lint: $(VENV)/dev.stamp
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/dev.stamp
	$(RUN) -m mypy

layers: $(VENV)/dev.stamp
	$(VENV)/bin/lint-imports --no-logo

api: $(VENV)/dev.stamp
	$(RUN) -m marketplace openapi --check openapi/openapi.json

migrations: $(VENV)/dev.stamp
	$(RUN) -m pytest tests/test_migrations.py

# Built from a copy, so that no stale build folder helps; every file of the packages must be inside.
wheel: $(VENV)/dev.stamp
	@rm -rf build/wheel && mkdir -p build/wheel/source
	@cp -R marketplace migrations pyproject.toml README.md LICENSE build/wheel/source
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir build/wheel build/wheel/source
	@$(PIP) install --no-deps --target build/wheel/installed build/wheel/*.whl
	diff -r -x __pycache__ marketplace build/wheel/installed/marketplace
	diff -r -x __pycache__ migrations build/wheel/installed/migrations
	cd build/wheel && PYTHONPATH=installed ../../$(RUN) installed/bin/marketplace --version
	@rm -rf build/wheel

# What is installed from the locks is what pyproject.toml asks for.
locks: $(VENV)/dev.stamp
	$(VENV)/bin/uv pip install --quiet --offline --no-cache --dry-run --python $(RUN) --group dev -r pyproject.toml

openapi: $(VENV)/dev.stamp
	$(RUN) -m marketplace openapi > openapi/openapi.json.new
	mv openapi/openapi.json.new openapi/openapi.json

COMPILE = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url $(ARGS) pyproject.toml

lock: $(VENV)/dev.stamp
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --group dev --constraint requirements.lock --output-file requirements-dev.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find marketplace migrations tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/run.stamp: requirements.lock $(RUN)
	$(call install,requirements.lock)
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(RUN)
	$(call install,requirements-dev.lock)
	@touch $@ $(VENV)/run.stamp

define install
@echo "Installing $(1) into $(VENV) ..."
@echo $$PPID > $(VENV)/unfinished
@$(PIP) install --no-compile --only-binary :all: --require-hashes -r $(1)
@rm $(VENV)/unfinished
endef

# `PYTHON=...` chooses another than the newest that is known to work.
$(RUN):
	@if kill -0 "$$(cat $(VENV)/unfinished 2>/dev/null)" 2>/dev/null; then \
		echo "another make is installing into $(VENV): try again when it is done, or remove $(VENV)" >&2; \
		exit 1; \
	fi; \
	for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		found=$$python; \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; \
		rm -rf $(VENV) && mkdir $(VENV) && echo $$PPID > $(VENV)/unfinished \
			&& "$$python" -m venv $(VENV); \
		exit; \
	done; \
	if [ -n "$$found" ]; then \
		echo "$$found cannot make virtual environments: install its venv package (Debian, Ubuntu: apt install python3-venv)" >&2; \
	else \
		echo "Python 3.11 or newer is needed and none was found: install one, or name it with PYTHON=..." >&2; \
	fi; \
	exit 1

# An installation that was cut short leaves its mark, and the next one begins anew.
ifneq ($(wildcard $(VENV)/unfinished),)
.PHONY: $(RUN)
endif
