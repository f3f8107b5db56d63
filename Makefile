# make check                      all checks, in the environment that is active
# make test PYTHON=python3.12     the tests, in a new environment
PYTHON ?= python3

.PHONY: check test

check:
	ruff format --check .
	ruff check .
	pyright
	python -m pytest -n 2

test:
	PYTHON=$(PYTHON) .ci/run
