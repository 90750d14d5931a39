# Two commands do everything on a fresh machine: `make search` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: search test drill lint clean

# ARGS adds options of `run`: make search ARGS="--data synthetic".
search: $(VENV)/installed
	$(RUN) -m search run --preset quickstart $(ARGS)

test: $(VENV)/installed
	$(RUN) -m coverage erase
	$(RUN) -m coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report --skip-covered --fail-under=90

# About ten minutes: a real study, its driver killed 20 times, its workers 20 times.
drill: $(VENV)/installed
	$(RUN) tests/drill.py --driver-kills 20 --worker-kills 20

lint: $(VENV)/installed
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

# Made anew when the list of packages changes; otherwise both commands start at once.
$(VENV)/installed: pyproject.toml
	$(RUN) -c "import pip, sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache
