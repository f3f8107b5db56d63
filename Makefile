# make check                      all checks, in the environment that is active
# make docs                       the site in docs/_build/html, warnings are errors
# make test PYTHON=python3.12     the tests, in a new environment
PYTHON ?= python3

.PHONY: check docs test

check:
	ruff format --check .
	ruff check .
	pyright
	python -m pytest -n 2

docs:
	python -m sphinx -b html -W --keep-going -q docs docs/_build/html
	@echo docs/_build/html/index.html

test:
	PYTHON=$(PYTHON) .ci/run
