# `make quickstart` and `make test` need a Python 3.11 to 3.13 with venv and nothing else: they create .venv and install into it.

# The first supported interpreter. 3.12 comes first: it is the newest version that tensorflow-io has wheels for.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3 python; do \
	"$$p" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV ?= .venv
LATEST_VENV ?= .venv-latest

.PHONY: quickstart benchmark test test-latest lint install clean

install: $(VENV)/.installed

# The extra `io` installs tensorflow-io and TensorFlow 2.17 where tensorflow-io has wheels, and nothing elsewhere.
$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 not found. Name an interpreter with 'make PYTHON=/path/to/python'." >&2; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[io,beam,examples,benchmark,test,lint]'
	touch $@

# The newest TensorFlow, without tensorflow-io.
$(LATEST_VENV)/.installed: pyproject.toml
	test -x $(LATEST_VENV)/bin/python || $(PYTHON) -m venv $(LATEST_VENV)
	$(LATEST_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(LATEST_VENV)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[examples,benchmark,test]'
	touch $@

quickstart: install
	$(VENV)/bin/python examples/quickstart.py

# Options of `python -m benchmarks`, for example: make benchmark OPTIONS='--cases large --xlearn PATH'
OPTIONS ?= --data ../shared/data --other-python $(LATEST_VENV)/bin/python

benchmark: install $(LATEST_VENV)/.installed
	$(VENV)/bin/python -m benchmarks $(OPTIONS)

# Tests mostly build graphs in Python or wait, so three processes keep two cores busy.
PYTEST = -m pytest --numprocesses 3 --dist worksteal --durations 15

test: install
	$(VENV)/bin/python $(PYTEST)

# Tests marked `one_tensorflow` run on TensorFlow 2.17 only.
test-latest: $(LATEST_VENV)/.installed
	$(LATEST_VENV)/bin/python $(PYTEST) -m "not one_tensorflow"

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

clean:
	rm -rf $(VENV) $(LATEST_VENV) build *.egg-info
