# make demo   export, check and build a cascade, run it on a street, and write demo/report.html
# make test   the tests that need neither a GPU nor much time
#
# Both set up .venv on their own. PYTHON=python3.12 chooses the interpreter (3.10 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHECKED := src tests bench recipes

.PHONY: demo test test-slow lint types docs install clean

demo: $(STAMP)
	$(BIN)/cascadert demo -o demo

# Two processes with one thread each: many small graphs gain nothing from more threads.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --durations=20

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: $(STAMP)
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)

types: $(STAMP)
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python docs/write_cli.py

install: $(STAMP)

$(STAMP): pyproject.toml $(wildcard constraints/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "$(PYTHON) is older than 3.10: choose another with make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@pins=constraints/py$$($(BIN)/python -c 'import sys; print("%d%d" % sys.version_info[:2])').txt; \
	if [ -f $$pins ]; then set -- -c $$pins; \
	else echo "there is no $$pins: installing the newest versions that pyproject.toml allows"; set --; fi; \
	echo "pip install $$* -e .[all,dev]"; \
	$(BIN)/python -m pip install --quiet "$$@" -e '.[all,dev]'
	@touch $@

clean:
	rm -rf $(VENV) demo build dist out .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests bench recipes -name __pycache__ -type d -prune -exec rm -rf {} +
